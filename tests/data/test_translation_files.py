"""Bitext in translators' files: TMX, PO, XLIFF, and archives of OPUS."""

import gzip
import zipfile

import pytest
from optical_rs import InputError
from optical_rs.data import load_bitext

TMX = """<?xml version="1.0"?><tmx version="1.4"><header/><body>
<tu><tuv xml:lang="en"><seg>Good  <b>day</b></seg></tuv><tuv xml:lang="sw-KE"><seg>Habari</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg/></tuv><tuv xml:lang="sw"><seg>tupu</seg></tuv></tu>
<tu><tuv xml:lang="fr"><seg>Eau</seg></tuv><tuv xml:lang="en"><seg>Water</seg></tuv><tuv xml:lang="sw"><seg>Maji</seg></tuv></tu>
</body></tmx>"""


def test_tmx(tmp_path):
    file = tmp_path / "x.tmx"
    file.write_text(TMX, encoding="utf-8")
    with pytest.warns(UserWarning, match=r"1 row was skipped, as a side is empty: unit 2 \(english\)"):
        found = load_bitext(str(file), columns=("sw", "en"))
    assert (found.foreign, found.english) == (["Habari", "Maji"], ["Good day", "Water"])
    assert found.skipped == 1
    with gzip.open(tmp_path / "x.tmx.gz", "wb") as packed:
        packed.write(TMX.encode())
    with zipfile.ZipFile(tmp_path / "x.tmx.zip", "w") as packed:
        packed.writestr("x.tmx", TMX)
    for name in ("x.tmx.gz", "x.tmx.zip"):
        with pytest.warns(UserWarning, match="1 row was skipped"):
            assert load_bitext(tmp_path / name).foreign == ["Habari", "Eau"]
    with pytest.raises(InputError, match="expected units in English and ha, got en, fr, sw"):
        load_bitext(str(file), columns=("ha", "en"))
    file.write_text(TMX[:80])
    with pytest.raises(InputError, match="not valid XML"):
        load_bitext(str(file))


PO = """msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

msgid "Good day"
msgstr "Habari"

#, fuzzy
msgid "Water"
msgstr "Moto"

msgid "Fire"
msgstr ""
"""
XLIFF = """<?xml version="1.0"?><xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2"><file
original="x" source-language="en" target-language="sw" datatype="plaintext"><body>
<trans-unit id="1" approved="yes"><source>Good day</source><target>Habari</target></trans-unit>
<trans-unit id="2"><source>Fire</source></trans-unit></body></file></xliff>"""


@pytest.mark.parametrize(("name", "text"), [("x.po", PO), ("x.xlf", XLIFF), ("x.xliff", XLIFF)])
def test_translation_files(tmp_path, name, text):
    pytest.importorskip("translate")
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = load_bitext(str(tmp_path / name))
    assert (found.foreign, found.english) == (["Habari"], ["Good day"])
    (tmp_path / name).write_text("<not>", encoding="utf-8")
    with pytest.raises(InputError, match=name):
        load_bitext(str(tmp_path / name))


XLIFF_2 = """<?xml version="1.0"?><xliff version="2.0" srcLang="en" trgLang="sw"
xmlns="urn:oasis:names:tc:xliff:document:2.0"><file id="f"><unit id="1"><segment{}><source>Fire</source>
<target>Moto</target></segment></unit></file></xliff>"""


@pytest.mark.parametrize(
    ("attributes", "counts"),
    [
        (("", ""), True),
        ((' approved="no"', ""), False),
        ((' approved="no"', ' state="final"'), False),
        ((' approved="yes"', ' state="needs-translation"'), True),
        *((("", f' state="{state}"'), True) for state in ("translated", "signed-off", "final", "x-own")),
        *((("", f' state="{state}"'), False) for state in ("new", "needs-translation", "needs-review-l10n")),
        *(((state,), True) for state in ("", ' state="translated"', ' state="reviewed"', ' state="final"')),
        ((' state="initial"',), False),
    ],
)
def test_states_of_xliff(tmp_path, attributes, counts):
    pytest.importorskip("translate")
    from optical_rs.data.formats import read_pairs

    text = XLIFF_2
    if len(attributes) == 2:
        unit = '<trans-unit id="2"{}><source>Fire</source><target{}>Moto</target></trans-unit>'
        text = XLIFF.replace('<trans-unit id="2"><source>Fire</source></trans-unit>', unit)
    (tmp_path / "x.xlf").write_text(text.format(*attributes), encoding="utf-8")
    found = [row[1:] for row in read_pairs(tmp_path / "x.xlf", ("foreign", "english"))]
    assert (("Moto", "Fire") in found) == counts


@pytest.mark.parametrize("text", [XLIFF, XLIFF_2.format("")])
def test_xliff_from_another_language_is_refused(tmp_path, text):
    pytest.importorskip("translate")
    for name in ("source-language", "srcLang"):
        text = text.replace(f'{name}="en"', f'{name}="fr"')
    (tmp_path / "x.xlf").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="expected English as the source language, got 'fr'"):
        load_bitext(str(tmp_path / "x.xlf"))


def test_archives_of_opus(tmp_path):
    file = tmp_path / "sw-en.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("GNOME.en-sw.en", "Good day\nWater\n")
        archive.writestr("GNOME.en-sw.sw", "Habari\nMaji\n")
        archive.writestr("README", "about")
    found = load_bitext(str(file))
    assert (found.foreign, found.english) == (["Habari", "Maji"], ["Good day", "Water"])
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("README", "about")
    with pytest.raises(InputError, match=r"expected two files NAME.en and NAME.xx, got README"):
        load_bitext(str(file))
    file.write_text("no archive")
    with pytest.raises(InputError, match="not a zip archive"):
        load_bitext(str(file))


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
@pytest.mark.parametrize("name", ["x.zip", "x.tmx.zip"])
def test_damaged_archives_are_one_line(tmp_path, name, method):
    file = tmp_path / name
    with zipfile.ZipFile(file, "w", method) as archive:
        if name == "x.zip":
            archive.writestr("a.en-sw.en", "Good day\nWater\n")
            archive.writestr("a.en-sw.sw", "Habari\nMaji\n")
        else:
            archive.writestr("a.tmx", TMX)
    good, messages = file.read_bytes(), []
    for at in range(len(good)):
        file.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        try:
            load_bitext(file)  # a date or a comment may be anything
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > len(good) // 4
    assert not any("\n" in message for message in messages)


def test_missing_files(tmp_path):
    for name in ("x.tmx", "x.po", "x.zip"):
        with pytest.raises(InputError, match="no such file"):
            load_bitext(str(tmp_path / name))
