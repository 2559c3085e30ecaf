"""A knowledge graph: how it is read, the walk by hand and by enumeration, and the cards that tell it."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.baselines.graph import GraphNeighbours, GraphSettings, reach
from llmrec.dataset.graph import Triple, attribute_triples, facts_of, read_triples, with_facts
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.policy.mixture import Items, Mixture, Scores
from llmrec.types import Interaction, Item, State

IDS = ["a", "b", "c", "d"]
TRIPLES = (
    Triple("a", "directed by", "Varda"),
    Triple("b", "directed by", "Varda"),
    Triple("a", "genre", "drama"),
    Triple("c", "genre", "drama"),
    Triple("b", "genre", "drama"),
    Triple("d", "sequel of", "a"),
)


@pytest.fixture
def dataset():
    items = {
        "item_id": IDS,
        "title": ["Cléo", "Vagabond", "Solaris", "Cléo 2"],
        "description": ["", "A road.", "", ""],
    }
    events = [("u", "a", 1, "click"), ("u", "c", 2, "click")]
    return Dataset.build(
        pl.DataFrame(items),
        pl.DataFrame({"user_id": ["u"]}),
        pl.DataFrame(events, schema=["user_id", "item_id", "time", "kind"], orient="row"),
        name="films",
        domain="film",
        click="click",
        conversion="conversion",
    )


def test_the_walk_by_hand():
    # a has three neighbours: Varda (degree 2), drama (degree 3) and d (degree 1)
    found = reach(IDS, TRIPLES, 0.0).toarray()
    np.testing.assert_allclose(found[0], [0.0, 1 / 3 / 2 + 1 / 3 / 3, 1 / 3 / 3, 1 / 3])
    damped = reach(IDS, TRIPLES, 1.0).toarray()
    np.testing.assert_allclose(damped[0], [0.0, 1 / 3 / 4 + 1 / 3 / 9, 1 / 3 / 9, 1 / 3])
    assert found[3, 0] == 1.0, "a triple is walked both ways"
    assert found[3, 1] == 0.0, "two steps lead through entities, not through items"


names = st.sampled_from(["a", "b", "c", "x", "y"])


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(names, names), max_size=8), damping=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_walk_by_enumeration(pairs, damping):
    ids = ["a", "b", "c"]
    found = reach(ids, [Triple(head, "r", tail) for head, tail in pairs], damping).toarray()
    edges = [*pairs, *((tail, head) for head, tail in pairs)]
    out = {name: [tail for head, tail in edges if head == name] for name in "abcxy"}
    for n, start in enumerate(ids):
        for m, end in enumerate(ids):
            want = out[start].count(end) / max(len(out[start]), 1)
            for middle in out[start]:
                if middle in "xy":
                    want += out[middle].count(end) / len(out[middle]) ** (1 + damping) / len(out[start])
            assert found[n, m] == pytest.approx(0.0 if n == m else want)


def test_it_is_a_ranker_a_part_of_a_mixture_and_knows_items_without_events(dataset):
    graph = GraphNeighbours(TRIPLES, GraphSettings(popularity=0.0)).fit(dataset, dataset.events)
    state = State("u", history=(Interaction(0, "click", 1),))
    (slate,) = graph.recommend([state], 3)
    assert slate.items_K == (3, 1, 2)
    mixture = Mixture(
        [Scores((graph,)), lambda states: np.ones((len(states), 4))], [0.5, 0.5], items=Items(4, "exclude")
    )
    assert mixture.recommend([state], 3)[0].items_K == (3, 1, 2)
    own = GraphNeighbours().fit(dataset, dataset.events)
    assert len(own.recommend([state], 3)[0].items_K) == 3, "no attributes: popularity orders"
    with pytest.raises(ConfigError, match="Damping"):
        GraphNeighbours(TRIPLES, GraphSettings(damping=-1.0))


def test_cards_tell_what_is_known(dataset):
    told = with_facts(dataset, TRIPLES)
    assert told.items["description"].to_list() == [
        "Directed by: Varda. Genre: drama.",
        "Directed by: Varda. Genre: drama. A road.",
        "Genre: drama.",
        "Sequel of: Cléo.",
    ]
    assert told.items["item_id"].to_list() == IDS
    assert told.n_items == 4
    item = Item("i", "T", categories=("x", "y"), brand="B")
    assert [t.tail for t in attribute_triples([item])] == ["x", "y", "B"]
    assert facts_of(item, (), {}) == ""


def test_a_file_of_triples(tmp_path):
    file = tmp_path / "graph.csv"
    file.write_text('Tail,head,Relation\nVarda,a,directed by\n"x, y",b,in\n\nVarda,a,directed by\n', encoding="utf-8")
    assert read_triples(file) == (Triple("a", "directed by", "Varda"), Triple("b", "in", "x, y"))
    for text, said in (
        ("head,tail\na,b\n", "no column 'relation'"),
        ("head,relation,tail\n", "no triples"),
        ("head,relation,tail\na,b\n", "line 2: 2 cells where the header has 3"),
        ("head,relation,tail\na,,c\n", "line 2: a triple needs"),
        (f"head,relation,tail\na,{'x' * 600},c\n", "longer than 500"),
        ('head,relation,tail\na,b,"c\n', "as CSV"),
        ("head,relation,tail\nq,b,c\n", "names no item"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=said):
            read_triples(file, [Item("a", "A")])
    with pytest.raises(DataError, match="cannot be read"):
        read_triples(tmp_path / "none.csv")
    file.write_bytes(b"\xff\xfe\x00head")
    with pytest.raises(DataError):
        read_triples(file)
