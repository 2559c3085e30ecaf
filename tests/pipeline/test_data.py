"""The data stage: what was imported is kept, and a source that has changed since is named."""

import os

from llmrec.config import RunConfig
from llmrec.pipeline.data import open_data
from llmrec.pipeline.work import Work

EVENTS = "user_id,item_id,time,rating\n" + "".join(
    f"u{n % 4},i{n % 5},{n * 86400 + 10**9},{1 + n % 5}\n" for n in range(60)
)


def test_a_source_that_has_changed_since_its_import_is_said(tmp_path, capfd):
    source = tmp_path / "shop"
    source.mkdir()
    (source / "events.csv").write_text(EVENTS)
    (source / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Thing {n}\n" for n in range(5)))
    config = RunConfig.read(None, {"data.dataset": "table", "data.source": source})
    first = open_data(config, Work(tmp_path / "w")).dataset
    (source / "notes.txt").write_text("new beside it")
    assert open_data(config, Work(tmp_path / "w")).dataset.manifest == first.manifest
    assert "has changed" not in capfd.readouterr().err
    (source / "events.csv").write_text(EVENTS + "u1,i1,2000000000,5\n")
    os.utime(source / "events.csv", (1, 1))
    assert open_data(config, Work(tmp_path / "w")).dataset.manifest == first.manifest
    said = " ".join(capfd.readouterr().err.split())
    assert "has changed since it was imported (events.csv)" in said
    (source / "events.csv").unlink()
    (source / "items.csv").unlink()
    (source / "notes.txt").unlink()
    source.rmdir()
    assert open_data(config, Work(tmp_path / "w")).dataset.manifest == first.manifest
