"""Published sources of bitext and collections, a file each."""
