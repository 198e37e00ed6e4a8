"""Manifests: every row is a slide with its own options, and every slip is told with its line."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nucleiflow import manifest
from nucleiflow.config import Entry, RunConfig
from nucleiflow.errors import ConfigError

FOLDER = Path("/cohort")


def parse(text, **environ):
    return manifest.parse(text, name="slides.csv", folder=FOLDER, environ=environ)


def entries(text, **environ):
    return [row.entry for row in parse(text, **environ)]


def refusal(text, **environ):
    with pytest.raises(ConfigError) as caught:
        parse(text, **environ)
    line = str(caught.value)
    assert line.startswith("manifest slides.csv: ")
    assert "\n" not in line
    return line.removeprefix("manifest slides.csv: ")


def test_a_row_is_a_slide_with_its_own_options():
    (one,) = entries(
        "slide,id,mpp,stain,channel,model,level,working_mpp,tile_px,halo_px,whole_slide\n"
        "a.svs,case 1,0.25,h&e,0,my.keras,1,0.5,512,96,true\n"
    )
    assert one == Entry(
        slide="/cohort/a.svs",
        id="case 1",
        mpp=0.25,
        stain="h&e",
        channel="0",
        model=Path("/cohort/my.keras"),
        level=1,
        working_mpp=0.5,
        tile_px=512,
        halo_px=96,
        whole_slide=True,
    )
    config = one.config(RunConfig(mpp=9, restart=True))
    assert (config.mpp, config.tissue_only, config.restart) == (0.25, False, True)


def test_an_empty_cell_leaves_the_choice_of_the_batch():
    (one,) = entries("slide,mpp,whole_slide\na.svs,,\n")
    batch = RunConfig(mpp=0.5, tissue_only=False)
    assert one.config(batch) is batch


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_signs_blanks_and_line_ends_do_not_matter(sign, start, end):
    lines = [" slide {0} mpp {0} id ", "", 'a b.svs {0} "0.5"{0} x', "  {0} {0} ", "/c.svs"]
    text = start + end.join(lines).format(sign)
    found = [(one.slide, one.mpp, one.id) for one in entries(text)]
    assert found == [("/cohort/a b.svs", 0.5, "x"), ("/c.svs", None, None)]


def test_paths_are_expanded_and_addresses_are_left_alone():
    text = "slide\n${DATA}/a.svs\n~/b.svs\ns3://bucket/c.svs\n../d.svs\n"
    assert [one.slide for one in entries(text, DATA="/data", HOME="unused")] == [
        "/data/a.svs",
        str(Path.home() / "b.svs"),
        "s3://bucket/c.svs",
        "/d.svs",
    ]


def test_rows_know_their_lines():
    assert [row.line for row in parse('slide\na.svs\n\n"b.svs"\n')] == [2, 4]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slide,mmp\na.svs,1\n", "mmp is not known: did you mean mpp?"),
        ("slide,colour\na.svs,1\n", "colour is not known: use slide"),
        ("slide,aws_secret_access_key\na.svs,1\n", "credentials do not belong"),
        ("path\na.svs\n", "path is not known"),
        ("mpp,id\n1,a\n", "no column slide"),
        ("", "no column slide"),
        ("slide\n", "no slide in it"),
        ("slide,mpp,mpp\na.svs,1,1\n", "column mpp is there twice"),
        ("slide,,mpp\na.svs,,1\n", "column 2 has no name"),
        ("slide,mpp\n\na.svs,fast\n", "line 3: mpp is 'fast': use a number"),
        ("slide,mpp\na.svs,1000\n", "line 2: mpp is '1000': use less than 100"),
        ("slide,mpp\na.svs,nan\n", "line 2: mpp is 'nan'"),
        ("slide,level\na.svs,1.5\n", "line 2: level is '1.5': use a whole number"),
        ("slide,stain\na.svs,pink\n", "use one of fluorescence, brightfield, h&e"),
        ("slide,whole_slide\na.svs,perhaps\n", "use true or false"),
        ("slide,mpp\na.svs,0.5,x\n", "line 2: 3 cells, but 2 columns"),
        ("slide,mpp\n,0.5\n", "line 2: slide is missing"),
        ('slide\n"a.svs\n', "line 2 is not CSV"),
        ("slide\n" + "x" * 200_000, "line 2 is not CSV: field larger"),
        ("slide,id\na.svs,one\nb.svs,two\nc.svs,one\n", "line 4: id 'one' is already in line 2"),
        ("slide\n${NOWHERE}/a.svs\n", "${NOWHERE} is not set in the environment"),
        ("slide\na\0.svs\n", "without control characters"),
    ],
)
def test_a_slip_is_told_with_its_line_and_the_way_out(text, says):
    assert says in refusal(text)


@pytest.mark.parametrize(
    "unsafe",
    ["a/b", "a\\b", "..", ".hidden", "a\x07b", "trailing.", "x" * 201, "batch.json", "a:b", "*"],
)
def test_an_id_is_a_safe_name_of_a_folder(unsafe):
    assert "line 2: id is" in refusal(f'slide,id\na.svs,"{unsafe}"\n')


def test_a_password_in_an_address_is_refused_and_not_shown():
    line = refusal("slide\ns3://key:hunter2@bucket/a.svs\n")
    assert "credentials do not belong" in line
    assert "hunter2" not in line


def test_the_number_of_rows_is_bounded(monkeypatch):
    monkeypatch.setattr(manifest, "MAX_ROWS", 3)
    assert len(entries("slide\na\nb\nc\n")) == 3
    assert "more than 3 slides" in refusal("slide\na\nb\nc\nd\n")


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_no_text_does_anything_but_parse_or_be_refused(text):
    for whole in (text, f"slide,id,mpp\n{text}"):
        with contextlib.suppress(ConfigError):
            rows = parse(whole)
            assert all("/" not in (row.entry.id or "") for row in rows)
