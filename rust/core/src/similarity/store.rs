//! Reading what Python's `TokenStore` wrote: a folder of columns, files that only grow, and `store.json`, which says
//! how many bytes of each are committed and what their CRC-32 is. Tokens and scales are mapped; ids, lengths and
//! deletions are read, and their checksums compared, when a store is opened.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::{Mmap, MmapOptions};
use serde_json::Value;

use super::{Ragged, Values};
use crate::{Error, Result};

const FORMAT: &str = "optical-token-store";
const VERSION: u64 = 2;
const COLUMNS: [&str; 8] =
    ["values", "scales", "lengths", "ids", "id_ends", "contents", "content_ends", "deleted"];

fn bad<T>(file: &Path, what: impl std::fmt::Display) -> Result<T> {
    Err(Error::Argument(format!("path: {} {what}", file.display())))
}

/// A file for reading, and its length. Links and pipes are no files of a store.
fn open(file: &Path) -> io::Result<(File, u64)> {
    if !std::fs::symlink_metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let opened = File::open(file)?;
    let length = opened.metadata()?.len();
    Ok((opened, length))
}

/// The committed part of a file.
#[derive(Debug)]
struct Column {
    file: PathBuf,
    /// None if it is empty.
    map: Option<Mmap>,
    sum: u64,
}

impl Column {
    fn open(file: PathBuf, size: u64, sum: u64) -> Result<Self> {
        let (opened, length) =
            open(&file).or_else(|error| bad(&file, format!("cannot be read ({error})")))?;
        // A map beyond the end of a file would end the process.
        if length < size {
            return bad(&file, format!("is truncated: {length} bytes, {size} committed"));
        }
        if size == 0 {
            return Ok(Column { file, map: None, sum });
        }
        let Ok(size) = usize::try_from(size) else { return bad(&file, "is larger than memory can be") };
        // SAFETY: writers of a store only add to its files, and put new ones in their place on compaction, so that
        // what is mapped stays as it is. Another program that cut a file short would end this one.
        match unsafe { MmapOptions::new().len(size).map(&opened) } {
            Ok(map) => Ok(Column { file, map: Some(map), sum }),
            Err(error) => bad(&file, format!("cannot be mapped ({error})")),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    fn verify(&self) -> Result<()> {
        if u64::from(crc32fast::hash(self.bytes())) != self.sum {
            return bad(&self.file, "is damaged: its checksum does not match");
        }
        Ok(())
    }

    /// The column as numbers of a type that any bits are a value of.
    fn numbers<T: Bits>(&self) -> &[T] {
        // SAFETY: any bits are a value of `T`. A map begins on a page, so that nothing is left before it.
        let (before, numbers, _) = unsafe { self.bytes().align_to::<T>() };
        debug_assert!(before.is_empty());
        numbers
    }

    /// The numbers of a column whose checksum matches.
    fn integers(&self) -> Result<&[i64]> {
        self.verify()?;
        Ok(self.numbers())
    }
}

/// Numbers that any bits are one of.
trait Bits {}
impl Bits for f32 {}
impl Bits for f16 {}
impl Bits for bf16 {}
impl Bits for i8 {}
impl Bits for i64 {}

/// Token embeddings of many texts, as they were committed when the store was opened.
///
/// ```
/// use optical_core::similarity::{Ragged, Selection, TokenStore, Values, search};
///
/// let store = TokenStore::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stores/int8"))?;
/// let query = Ragged::new(Values::F32(&[0.5, -1.0, 0.25]), &[0, 1], store.dim())?; // one, of one token
/// let hits = &search(&query, &store.texts()?, store.places(), Selection::All, 2, None, None)?[0];
/// let ids: Vec<&str> = hits.iter().map(|hit| &*store.ids()[hit.document as usize]).collect();
/// assert_eq!(ids, ["c", "b"]);
/// # Ok::<(), optical_core::Error>(())
/// ```
#[derive(Debug)]
pub struct TokenStore {
    about: Description,
    columns: [Column; COLUMNS.len()],
    offsets: Vec<i64>,
    ids: Vec<String>,
    places: Vec<Option<u32>>,
}

impl TokenStore {
    /// Open a store that Python's `TokenStore` wrote.
    ///
    /// # Errors
    /// A folder that holds no store, or one of another format version, or that is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let folder = path.as_ref();
        if cfg!(target_endian = "big") {
            return bad(folder, "has numbers in the other order of bytes");
        }
        let mut about = Description::read(folder)?;
        loop {
            match TokenStore::of(folder, about) {
                Ok(store) => return Ok(store),
                // Another process may compact between the description and the columns: then there is a new one.
                Err(error) => match Description::read(folder)? {
                    same if same == about => return Err(error),
                    new => about = new,
                },
            }
        }
    }

    fn of(folder: &Path, about: Description) -> Result<Self> {
        let mut columns = Vec::with_capacity(COLUMNS.len());
        for (name, (size, sum)) in COLUMNS.iter().zip(about.columns) {
            columns.push(Column::open(folder.join(format!("{name}.{}", about.generation)), size, sum)?);
        }
        let Ok(columns) = <[Column; COLUMNS.len()]>::try_from(columns) else {
            return bad(folder, "is damaged");
        };
        let [_, _, lengths, ids, id_ends, _, _, deleted] = &columns;
        let mut offsets = vec![0i64];
        for length in lengths.integers()? {
            offsets.push(offsets[offsets.len() - 1].saturating_add(*length));
        }
        if offsets.windows(2).any(|w| w[0] > w[1]) || offsets.last() != Some(&about.tokens) {
            return bad(folder, "is damaged: lengths and values disagree");
        }
        ids.verify()?;
        let Some(ids) = split(ids.bytes(), id_ends.integers()?) else {
            return bad(folder, "is damaged: its ids contradict each other");
        };
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_unstable_by_key(|i| ids[*i as usize].as_bytes());
        let mut places = vec![None; ids.len()];
        for (place, text) in order.into_iter().enumerate() {
            places[text as usize] = Some(place as u32);
        }
        for text in deleted.integers()? {
            match usize::try_from(*text).ok().and_then(|text| places.get_mut(text)) {
                Some(place) => *place = None,
                None => return bad(folder, "is damaged: texts are deleted that it does not have"),
            }
        }
        Ok(TokenStore { about, columns, offsets, ids, places })
    }

    /// Numbers of a token.
    pub fn dim(&self) -> usize {
        self.about.dim
    }

    /// Number of texts, deleted ones included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The id of each text, deleted ones included.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The place of each text in byte order of the ids, for [`search`](super::search()); none if it is deleted.
    pub fn places(&self) -> &[Option<u32>] {
        &self.places
    }

    /// The tokens, where they lie.
    ///
    /// # Errors
    /// More texts than [`Ragged`] takes.
    pub fn texts(&self) -> Result<Ragged<'_>> {
        let [values, scales, ..] = &self.columns;
        let values = match self.about.kind {
            Kind::F32 => Values::F32(values.numbers()),
            Kind::F16 => Values::F16(values.numbers()),
            Kind::Bf16 => Values::Bf16(values.numbers()),
            Kind::Int8 => Values::Int8 { codes: values.numbers(), scales: scales.numbers() },
        };
        Ragged::new(values, &self.offsets, self.about.dim)
    }

    /// Read everything and compare checksums, which opening does for all but tokens, scales and contents.
    ///
    /// # Errors
    /// A byte of what was committed has changed; the file is named.
    pub fn verify(&self) -> Result<()> {
        self.columns.iter().try_for_each(Column::verify)
    }
}

/// Texts that lie one after the other, given where each ends; none if that is not so.
fn split(bytes: &[u8], ends: &[i64]) -> Option<Vec<String>> {
    let mut start = 0;
    let mut texts = Vec::with_capacity(ends.len());
    for end in ends {
        let end = usize::try_from(*end).ok()?;
        texts.push(std::str::from_utf8(bytes.get(start..end)?).ok()?.to_owned());
        start = end;
    }
    (start == bytes.len()).then_some(texts)
}

/// Numbers that tokens are kept in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    F32,
    F16,
    Bf16,
    Int8,
}

/// What `store.json` says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Description {
    dim: usize,
    kind: Kind,
    generation: u64,
    tokens: i64,
    /// Bytes and checksum of each column.
    columns: [(u64, u64); COLUMNS.len()],
}

impl Description {
    /// The second line of the file is the checksum of its first.
    fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("store.json");
        let mut data = Vec::new();
        if let Err(error) = open(&file).and_then(|(mut opened, _)| opened.read_to_end(&mut data)) {
            return bad(folder, format!("is no token store ({}: {error})", file.display()));
        }
        let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
        let (line, checksum) = data.split_at(end);
        let raw: Value = serde_json::from_slice(line).unwrap_or_default();
        let ours = raw["format"] == FORMAT;
        if ours && raw["version"] != VERSION {
            let version = &raw["version"];
            return bad(folder, format!("has format version {version}, this program reads {VERSION}"));
        }
        if checksum != format!("\n{:08x}\n", crc32fast::hash(line)).as_bytes() {
            return bad(&file, "is damaged: its checksum does not match");
        }
        if !ours {
            return bad(&file, "does not describe a token store");
        }
        let (kind, bytes) = match raw["dtype"].as_str() {
            Some("float32") => (Kind::F32, 4),
            Some("float16") => (Kind::F16, 2),
            Some("bfloat16") => (Kind::Bf16, 2),
            Some("int8") => (Kind::Int8, 1),
            _ => return bad(folder, format!("keeps tokens as {}, which cannot be read", raw["dtype"])),
        };
        Description::sound(&raw, kind, bytes)
            .map_or_else(|| bad(&file, "is damaged: its numbers contradict each other"), Ok)
    }

    fn sound(raw: &Value, kind: Kind, bytes: u64) -> Option<Self> {
        let whole = |value: &Value| value.as_u64().filter(|n| *n < 1 << 62);
        let (dim, generation) = (whole(&raw["dim"])?, whole(&raw["generation"])?);
        let mut columns = [(0, 0); COLUMNS.len()];
        for (column, name) in columns.iter_mut().zip(COLUMNS) {
            *column = (whole(&raw["bytes"][name])?, whole(&raw["crc32"][name])?);
        }
        let [values, scales, lengths, _, id_ends, _, content_ends, deleted] = columns.map(|(size, _)| size);
        let width = dim.checked_mul(bytes).filter(|width| *width > 0)?;
        let tokens = values / width;
        let consistent = values % width == 0
            && scales == if kind == Kind::Int8 { 4 * tokens } else { 0 }
            && [lengths, id_ends, content_ends, deleted].iter().all(|size| size % 8 == 0)
            && id_ends == lengths
            && content_ends == lengths
            && lengths / 8 < 1 << 32;
        let (dim, tokens) = (usize::try_from(dim).ok()?, i64::try_from(tokens).ok()?);
        consistent.then_some(Description { dim, kind, generation, tokens, columns })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{Selection, search};
    use super::*;

    /// Stores that Python wrote: four texts of 2, 0, 1 and 1 tokens, the third of which is deleted.
    fn folder(dtype: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores").join(dtype)
    }

    fn opened(path: &Path) -> TokenStore {
        TokenStore::open(path).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A copy that a test may damage.
    fn copy(name: &str) -> PathBuf {
        let to = std::env::temp_dir().join(format!("optical-store-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&to);
        fs::create_dir_all(&to).unwrap_or_else(|e| panic!("{e}"));
        for entry in fs::read_dir(folder("int8")).unwrap_or_else(|e| panic!("{e}")).flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap_or_else(|e| panic!("{e}"));
        }
        to
    }

    fn edit(file: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut data = fs::read(file).unwrap_or_else(|e| panic!("{e}"));
        edit(&mut data);
        fs::write(file, data).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Another description, with the checksum that it should have.
    fn described(data: &mut Vec<u8>, from: &str, to: &str) {
        let text = String::from_utf8_lossy(data).replace(from, to);
        let line = text.lines().next().unwrap_or_default();
        *data = format!("{line}\n{:08x}\n", crc32fast::hash(line.as_bytes())).into_bytes();
    }

    #[test]
    fn what_python_wrote_is_read_in_every_form() {
        for dtype in ["float32", "float16", "bfloat16", "int8"] {
            let store = opened(&folder(dtype));
            assert_eq!(
                (store.dim(), store.len(), store.ids()),
                (3, 4, &["b", "añ", "a", "c"].map(String::from)[..])
            );
            assert_eq!(store.places(), [Some(2), Some(1), None, Some(3)]);
            assert_eq!(store.verify(), Ok(()));
            let texts = store.texts().unwrap_or_else(|e| panic!("{e}"));
            let query = [0.5, -1.0, 0.25];
            let queries = Ragged::new(Values::F32(&query), &[0, 1], 3).unwrap_or_else(|e| panic!("{e}"));
            let hits = search(&queries, &texts, store.places(), Selection::All, 9, None, None);
            let hits = hits.unwrap_or_else(|e| panic!("{e}"));
            let found: Vec<u32> = hits[0].iter().map(|hit| hit.document).collect();
            assert_eq!(found, [3, 0, 1], "{dtype}");
            // Tokens [4, -4, 1] and [.5, -1, .25].
            let off = if dtype == "int8" { 0.05 } else { 1e-6 };
            assert!((hits[0][0].score - 6.25).abs() < off && (hits[0][1].score - 1.3125).abs() < off);
        }
    }

    #[test]
    fn a_byte_that_changed_is_named() {
        for (file, byte) in [("lengths.0", 0), ("ids.0", 0), ("id_ends.0", 8), ("deleted.0", 0)] {
            let path = copy(file);
            edit(&path.join(file), |data| data[byte] ^= 4);
            let error = TokenStore::open(&path).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(file) && error.contains("checksum"), "{file}: {error}");
            let _ = fs::remove_dir_all(path);
        }
        for file in ["values.0", "scales.0", "contents.0"] {
            let path = copy(file);
            edit(&path.join(file), |data| data[3] ^= 4);
            let error = opened(&path).verify().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(file) && error.contains("checksum"), "{file}: {error}");
            let _ = fs::remove_dir_all(path);
        }
    }

    #[test]
    fn columns_that_contradict_each_other_are_refused() {
        let cases: [(&str, usize, u8, &str); 6] = [
            ("lengths.0", 0, 9, "lengths and values disagree"),
            ("lengths.0", 7, 0x80, "lengths and values disagree"),
            ("id_ends.0", 0, 9, "its ids contradict each other"),
            ("id_ends.0", 24, 5, "its ids contradict each other"),
            ("ids.0", 1, 0xff, "its ids contradict each other"),
            ("deleted.0", 0, 4, "texts are deleted that it does not have"),
        ];
        for (k, (file, at, byte, said)) in cases.into_iter().enumerate() {
            let path = copy(&format!("contradiction-{k}"));
            let mut sums = [0; 2];
            edit(&path.join(file), |data| {
                sums[0] = crc32fast::hash(data);
                data[at] = byte;
                sums[1] = crc32fast::hash(data);
            });
            edit(&path.join("store.json"), |data| {
                described(data, &sums[0].to_string(), &sums[1].to_string())
            });
            let error = TokenStore::open(&path).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(said), "{file}: {error}");
            let _ = fs::remove_dir_all(path);
        }
    }

    #[test]
    fn what_is_no_whole_store_is_refused() {
        type Damage = fn(&mut Vec<u8>);
        let cases: [(&str, &str, Damage, &str); 7] = [
            (
                "version",
                "store.json",
                |data| described(data, "\"version\": 2", "\"version\": 3"),
                "format version 3, this program reads 2",
            ),
            ("form", "store.json", |data| described(data, "int8", "int4"), "keeps tokens as \"int4\""),
            (
                "sizes",
                "store.json",
                |data| described(data, "\"dim\": 3", "\"dim\": 5"),
                "contradict each other",
            ),
            (
                "foreign",
                "store.json",
                |data| described(data, "optical-token-store", "another"),
                "does not describe a token store",
            ),
            ("flipped", "store.json", |data| data[20] ^= 1, "checksum"),
            ("short", "values.0", |data| data.truncate(5), "is truncated: 5 bytes, 12 committed"),
            ("longer", "values.0", |data| data.extend([7; 9]), ""),
        ];
        for (name, file, damage, said) in cases {
            let path = copy(name);
            edit(&path.join(file), damage);
            let error = TokenStore::open(&path).err().map(|e| e.to_string()).unwrap_or_default();
            // What is not committed yet does not count.
            assert!(if said.is_empty() { error.is_empty() } else { error.contains(said) }, "{name}: {error}");
            let _ = fs::remove_dir_all(path);
        }
        let path = copy("missing");
        let _ = fs::remove_file(path.join("scales.0"));
        assert!(TokenStore::open(&path).is_err_and(|e| e.to_string().contains("scales.0 cannot be read")));
        let _ = fs::remove_dir_all(&path);
        assert!(TokenStore::open(&path).is_err_and(|e| e.to_string().contains("is no token store")));
    }
}
