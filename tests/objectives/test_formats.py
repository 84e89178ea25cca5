"""What stands in files beside rows, or looks like one."""

from __future__ import annotations

import json
from pathlib import Path

from objectives.data import load_data
from tests.objectives.test_data import all_rows, labelled, write


def test_line_ends_marks_and_separators_that_are_not_line_ends(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"one\u2028two\x85 {i}", "label": i % 2}, ensure_ascii=False) for i in range(8)]
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    assert all(row.text.startswith("one\u2028two\x85 ") for row in all_rows(load_data(str(tmp_path))))

    quoted = "".join(f'"a ""b""\r\nc, {i}",{i % 2}\r\n\r\n' for i in range(8))
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbftext,label\r\n" + quoted.encode())
    assert {row.text for row in all_rows(load_data(str(tmp_path / "rows.csv")))} == {
        f'a "b"\r\nc, {i}' for i in range(8)
    }


def test_columns_that_a_spreadsheet_left_empty_and_spaces_in_a_header_do_no_harm(tmp_path: Path) -> None:
    rows = "".join(f"{i},word {i},{i % 2},,\n" for i in range(20))
    (tmp_path / "rows.csv").write_text(f"id, text , label,,\n{rows}")
    assert {row.text for row in all_rows(load_data(str(tmp_path / "rows.csv")))} == {f"word {i}" for i in range(20)}


def test_columns_of_one_name_are_no_trouble_where_none_of_them_is_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = [[f"word {i}" for i in range(20)], [i % 2 for i in range(20)], [0] * 20, [1] * 20]
    table = pyarrow.table(columns, names=["text", "label", "score", "score"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert len(all_rows(load_data(str(tmp_path / "rows.parquet")))) == 20


def test_indented_code_and_long_documents_in_tables_are_no_rows_that_a_quote_swallowed(tmp_path: Path) -> None:
    texts = [f"def f{i}():" + f"\n\treturn {i}" * (i % 4 + 1) for i in range(8)] + ["word\tword " * 20_000 + "\nend"]
    for first, suffix in (("label", ".tsv"), ("text", ".tsv"), ("text", ".csv")):
        rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(texts)]
        rows = [{key: row[key] for key in sorted(row, key=lambda key: key != first)} for row in rows]
        data = load_data(str(write(tmp_path / f"{first}{suffix}", rows)))
        assert {row.text for row in all_rows(data)} == set(texts)


def test_a_list_of_objects_may_begin_lines_and_spaces_later(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(f"\n\n  {json.dumps(labelled(20))}")
    assert len(all_rows(load_data(str(tmp_path)))) == 20
