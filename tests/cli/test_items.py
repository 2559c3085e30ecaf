"""`llmrec items`: items come and go in a finished run folder."""

import polars as pl

from llmrec import Recommender
from llmrec.finding import default_data
from tests.cli import tiny


def test_items_come_and_go_and_users_stay_known(finished, cache, tmp_path):
    out, _ = finished
    before = Recommender.load(out).recommend(user="u00003", k=2)
    gone = [item.item_id for item in before.items]
    (tmp_path / "gone.txt").write_text("\n".join(gone) + "\n", encoding="utf-8")
    (tmp_path / "new.csv").write_text(
        "item_id,title,categories,price\nn1,Cork Block,yoga|props,12.5\nn2,Cork Block,,\nn3,Paper Lamp,,\n",
        encoding="utf-8",
    )
    changes = ("--add", "new.csv", "--remove", "gone.txt", "--out", "changed")
    done = tiny.llmrec("items", out, *changes, cache=cache, cwd=tmp_path)
    *assumed, last = done.stdout.strip().splitlines()
    assert last == "3 added, 2 removed; changed has 41 items."
    assert any("new.csv, categories: categories are divided by '|'" in line for line in assumed)
    items = pl.read_parquet(tmp_path / "changed" / "items.parquet")
    assert items["item_id"].to_list()[-3:] == ["n1", "n2", "n3"]
    assert items.row(38, named=True)["categories"] == ["yoga", "props"]
    assert (tmp_path / "changed" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()

    answer = Recommender.load(tmp_path / "changed", data=default_data(out)).recommend(user="u00003", k=20)
    assert not set(gone) & {item.item_id for item in answer.items}
    everything = Recommender.load(tmp_path / "changed").recommend(prompt="something new", k=41)
    assert {"n1", "n2", "n3"} <= {item.item_id for item in everything.items}
    assert len({item.item_id for item in everything.items}) == 41

    there = sorted(p.name for p in tmp_path.iterdir())
    (tmp_path / "gone.txt").write_text("nobody\n", encoding="utf-8")
    refused = tiny.llmrec("items", out, *changes[:-1], "other", cache=cache, code=2, cwd=tmp_path)
    assert refused.stderr.strip() == "llmrec: Item 'nobody' cannot be removed: the catalogue has no such item."
    assert sorted(p.name for p in tmp_path.iterdir()) == there
