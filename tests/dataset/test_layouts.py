"""Public layouts from look-alikes of a few rows: what stands in the files, and what a data set holds of it."""

from __future__ import annotations

import gzip
import json

import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.dataset.importers import IMPORTERS, import_dataset
from llmrec.dataset.importers.layouts import layout_names, recognise
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError


def put(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def events(dataset, *columns):
    return dataset.events.select(columns).rows()


def titles(dataset):
    return dict(dataset.items.select("item_id", "title").rows())


BOOKS = {
    "BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n"276725";"034545104X";"0"\n"276726";"0155061224";"5"\n'
    '"276726";"034545104X";"0"\n"276727";"0446520802";"0"\n"276727";"034545104X";"8"\n"276727";"1111111111";"9"\n'
    '"276725";"0155061224";"0"\n',
    "BX-Books.csv": (
        '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S"\n'
        '"034545104X";"Flesh \\"and\\" Blood; a tale";"M. J. Rose";"2002";"Ballantine Books";"http://x/1.jpg"\n'
        '"0155061224";"Rites of Passage";"Judith Rae";"2001";"Heinle";"http://x/2.jpg"\n'
        '"0446520802";"L\'été d\'Amélie";"Nicholas Sparks";"1996";"Warner Books";"http://x/3.jpg"\n'
    ).encode("latin-1"),
    "BX-Users.csv": '"User-ID";"Location";"Age"\n"276725";"tyler, texas, usa";NULL\n'
    '"276726";"seattle, washington, usa";"31"\n"276727";"h, new south wales, australia";"16"\n',
}


def test_book_crossing(tmp_path):
    dataset = import_dataset("book-crossing", put(tmp_path, BOOKS))
    assert titles(dataset)["034545104X"] == 'Flesh "and" Blood; a tale'
    assert titles(dataset)["0446520802"] == "L'été d'Amélie"
    assert events(dataset, "user_id", "item_id", "value") == [
        ("276725", "034545104X", 0),
        ("276726", "0155061224", 5),
        ("276726", "034545104X", 0),
        ("276727", "0446520802", 0),
        ("276727", "034545104X", 8),
        ("276725", "0155061224", 0),
    ]
    assert (dataset.manifest.click, dataset.manifest.conversion) == ("rating>=1", "rating>=8")
    assert dataset.user("276726").profile == "Location: seattle, washington, usa; Age: 31"
    assert dataset.manifest.account["rows"]["events"] == {"in": 7, "out": 6}


def test_book_crossing_as_a_later_archive_has_it(tmp_path):
    files = {
        "archive/Ratings.csv": "User-ID,ISBN,Rating\n8,002,7\n8,003,10\n9,002,0\n",
        "archive/Books.csv": "ISBN,Title,Author,Year,Publisher\n002,Clara Callan,R. Wright,2001,Flamingo\n003,Dune,,,\n",
    }
    dataset = import_dataset("book-crossing", put(tmp_path, files))
    assert titles(dataset) == {"002": "Clara Callan", "003": "Dune"}
    assert events(dataset, "user_id", "item_id", "value") == [("8", "002", 7), ("8", "003", 10), ("9", "002", 0)]


def test_lastfm_hetrec(tmp_path):
    files = {
        "user_artists.dat": "userID\tartistID\tweight\n2\t51\t13883\n2\t52\t11690\n3\t51\t228\n",
        "artists.dat": 'id\tname\turl\tpictureURL\n51\t"Weird Al" Yankovic\thttp://a\thttp://b\n'
        "52\tRoyce da 5'9\"\thttp://c\thttp://d\n",
        "user_taggedartists.dat": "userID\tartistID\ttagID\tday\tmonth\tyear\n2\t52\t13\t1\t4\t2009\n2\t52\t15\t1\t4\t2009\n",
        "tags.dat": "tagID\ttagValue\n13\tchillout\n15\trap\n",
    }
    dataset = import_dataset("lastfm", put(tmp_path, files))
    assert titles(dataset) == {"51": '"Weird Al" Yankovic', "52": "Royce da 5'9\""}
    assert dataset.items["categories"].to_list() == [[], ["chillout", "rap"]]
    assert events(dataset, "user_id", "item_id", "value", "kind") == [
        ("2", "51", 13883, "rating"),
        ("2", "52", 11690, "rating"),
        ("3", "51", 228, "rating"),
    ]


def test_lastfm_360k(tmp_path):
    name = "usersha1-artmbid-artname-plays.tsv"
    files = {
        f"lastfm-dataset-360K/{name}": "00000c28\t3bd73256\tbetty blowtorch\t2137\n00000c28\t\tdie Ärzte\t1099\n"
        "00001411\t3bd73256\tbetty blowtorch\t12\n",
        "lastfm-dataset-360K/usersha1-profile.tsv": "00000c28\tf\t22\tGermany\tFeb 1, 2007\n00001411\tm\t30\tJapan\t\n",
    }
    dataset = import_dataset("lastfm", put(tmp_path, files))
    assert titles(dataset) == {"betty blowtorch": "betty blowtorch", "die Ärzte": "die Ärzte"}
    assert events(dataset, "user_id", "item_id", "value")[1] == ("00000c28", "die Ärzte", 1099)
    assert dataset.user("00000c28").profile == "gender f, age 22, from Germany"


def test_lastfm_1k(tmp_path):
    name = "userid-timestamp-artid-artname-traid-traname.tsv"
    files = {
        name: "user_000001\t2009-05-04T23:08:57Z\tf1b1cf71\tDeep Dish\t\tFuck Me Im Famous (Pacha Ibiza)\n"
        "user_000001\t2009-05-04T13:54:10Z\ta7f7df4a\t坂本龍一\t\tComposition 0919\n"
        "user_000002\t2009-05-03T15:10:18Z\ta7f7df4a\t坂本龍一\t\tComposition 0919\n",
        "userid-profile.tsv": "#id\tgender\tage\tcountry\tregistered\nuser_000001\tm\t\tJapan\tAug 13, 2006\n"
        "user_000002\tf\t\tPeru\tFeb 24, 2006\n",
    }
    dataset = import_dataset("lastfm", put(tmp_path, files))
    title = "Composition 0919 by 坂本龍一"
    assert titles(dataset)[title] == title
    assert events(dataset, "user_id", "item_id", "time") == [
        ("user_000002", title, 1241363418),
        ("user_000001", title, 1241445250),
        ("user_000001", "Fuck Me Im Famous (Pacha Ibiza) by Deep Dish", 1241478537),
    ]
    assert dataset.manifest.repeat == "allow"


GOODBOOKS = {
    "ratings.csv": "user_id,book_id,rating\n1,258,5\n2,4081,4\n2,258,5\n",
    "books.csv": "book_id,goodreads_book_id,isbn,authors,original_title,title\n258,2767052,439023483,Carlos Ruiz Zafón,"
    'La sombra,"The Shadow of the Wind (The Cemetery, #1)"\n4081,3,439554934,"J.K. Rowling, Mary GrandPré",,Casa\n',
}


def test_goodbooks(tmp_path):
    dataset = import_dataset("goodbooks", put(tmp_path, GOODBOOKS))
    assert titles(dataset) == {"258": "The Shadow of the Wind (The Cemetery, #1)", "4081": "Casa"}
    assert events(dataset, "user_id", "item_id", "value", "time") == [
        ("1", "258", 5, 1),
        ("2", "4081", 4, 2),
        ("2", "258", 5, 3),
    ]
    assert dataset.items["brand"].to_list() == ["Carlos Ruiz Zafón", "J.K. Rowling, Mary GrandPré"]


def test_steam_200k(tmp_path):
    rows = (
        "151603712,The Elder Scrolls V Skyrim,purchase,1.0,0\n151603712,The Elder Scrolls V Skyrim,play,273.0,0\n"
        '151603712,"Papers, Please",purchase,1.0,0\n187131847,Dota 2,purchase,1.0,0\n187131847,Dota 2,play,2.3,0\n'
    )
    source = put(tmp_path, {"steam-200k.csv": rows}) / "steam-200k.csv"
    dataset = import_dataset("steam", source)
    assert set(titles(dataset)) == {"The Elder Scrolls V Skyrim", "Papers, Please", "Dota 2"}
    assert events(dataset, "user_id", "item_id", "kind")[:3] == [
        ("151603712", "The Elder Scrolls V Skyrim", "click"),
        ("151603712", "The Elder Scrolls V Skyrim", "conversion"),
        ("151603712", "Papers, Please", "click"),
    ]


GAMES = (
    "{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Casual'], u'app_name': u'Lost Summoner Kitty', "
    "u'price': 4.99, u'id': u'761140', u'developer': u'Kotoshiro'}\n"
    "{u'genres': [u'Free to Play'], u'app_name': u\"Ironbound's\", u'price': u'Free To Play', u'id': u'643980'}\n"
)


def test_steam_reviews(tmp_path):
    reviews = (
        "{u'username': u'Chaos', u'hours': 0.1, u'product_id': u'761140', u'date': u'2017-12-17', u'text': u'good'}\n"
        "{u'username': u'Ada', u'hours': 51.1, u'product_id': u'643980', u'date': u'2017-12-18', u'text': u'ok'}\n"
        "{u'username': u'Chaos', u'hours': 3.0, u'product_id': u'643980', u'date': u'2018-01-02', u'text': u'ok'}\n"
    )
    folder = put(tmp_path, {"steam_reviews.json.gz": gzip.compress(reviews.encode()), "steam_games.json": GAMES})
    dataset = import_dataset("steam", folder)
    assert titles(dataset) == {"761140": "Lost Summoner Kitty", "643980": "Ironbound's"}
    assert dataset.items["categories"].to_list() == [["Action", "Casual"], ["Free to Play"]]
    assert events(dataset, "user_id", "item_id", "time", "kind") == [
        ("Chaos", "761140", 1513468800, "click"),
        ("Ada", "643980", 1513555200, "click"),
        ("Chaos", "643980", 1514851200, "click"),
    ]


def test_steam_libraries(tmp_path):
    libraries = (
        "{'user_id': '76561197970982479', 'items_count': 2, 'items': [{'item_id': '761140', 'item_name': 'Lost', "
        "'playtime_forever': 6, 'playtime_2weeks': 0}, {'item_id': '643980', 'item_name': 'Iron', "
        "'playtime_forever': 0, 'playtime_2weeks': 0}]}\n"
        "{'user_id': 'js41637', 'items_count': 1, 'items': [{'item_id': '643980', 'item_name': \"I'm\", "
        "'playtime_forever': 90, 'playtime_2weeks': 5}]}\n"
    )
    folder = put(tmp_path, {"australian_users_items.json": libraries, "steam_games.json": GAMES})
    dataset = import_dataset("steam", folder)
    assert events(dataset, "user_id", "item_id", "value") == [
        ("76561197970982479", "761140", 6),
        ("76561197970982479", "643980", 0),
        ("js41637", "643980", 90),
    ]


SHOP = {
    "events.csv": "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n"
    "1433221332217,257597,addtocart,355908,\n1433221335000,257597,transaction,355908,4000\n"
    "1433224214164,992329,view,248676,\n1433224219000,992329,view,355908,\n",
    "item_properties_part1.csv": "timestamp,itemid,property,value\n1435460400000,355908,categoryid,1338\n"
    "1441508400000,355908,888,1116713 960601 n277.200\n",
    "item_properties_part2.csv": "timestamp,itemid,property,value\n1433041200000,248676,categoryid,1114\n"
    "1433041300000,355908,categoryid,1339\n",
    "category_tree.csv": "categoryid,parentid\n1016,213\n",
}


def test_retailrocket(tmp_path):
    dataset = import_dataset("retailrocket", put(tmp_path, SHOP))
    assert titles(dataset) == {"355908": "355908", "248676": "248676"}
    assert dataset.items["categories"].to_list() == [["1339"], ["1114"]]
    assert events(dataset, "user_id", "item_id", "kind", "time") == [
        ("257597", "355908", "click", 1433221332),
        ("257597", "355908", "cart", 1433221332),
        ("257597", "355908", "conversion", 1433221335),
        ("992329", "248676", "click", 1433224214),
        ("992329", "355908", "click", 1433224219),
    ]


NEWS = {
    "behaviors.tsv": "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0\n"
    "2\tU91836\t11/12/2019 6:11:30 PM\t\tN35729-0 N19639-0 N55689-1\n",
    "news.tsv": 'N55689\tsports\tfootball_nfl\tCharles Rogers, former "star"\tThe former player.\thttps://x\t[]\t[]\n'
    "N35729\tnews\tnewsus\tPorsche launches into second story\t\thttps://y\t[]\t[]\n"
    "N19639\thealth\tweightloss\t50 Worst Habits\tThese seemingly harmless 5'9\" habits\thttps://z\t[]\t[]\n",
}


def test_mind(tmp_path):
    dataset = import_dataset("mind", put(tmp_path, {f"MINDsmall_train/{k}": v for k, v in NEWS.items()}))
    assert titles(dataset)["N55689"] == 'Charles Rogers, former "star"'
    assert dataset.items["categories"].to_list()[0] == ["sports", "football_nfl"]
    assert events(dataset, "user_id", "item_id", "kind", "position", "session", "time") == [
        ("U13740", "N55689", "impression", 0, "1", 1573463158),
        ("U13740", "N55689", "click", 0, "1", 1573463158),
        ("U13740", "N35729", "impression", 1, "1", 1573463158),
        ("U91836", "N35729", "impression", 0, "2", 1573582290),
        ("U91836", "N19639", "impression", 1, "2", 1573582290),
        ("U91836", "N55689", "impression", 2, "2", 1573582290),
        ("U91836", "N55689", "click", 2, "2", 1573582290),
    ]


@pytest.mark.parametrize(
    ("file", "head"),
    [
        ("OnlineRetail.csv", "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"),
        ("online_retail_II.csv", "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country"),
    ],
)
def test_online_retail(tmp_path, file, head):
    rows = (
        "536365,85123A,WHITE HANGING HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"
        "536365,71053,WHITE METAL LANTERN,6,12/1/2010 8:26,3.39,17850,United Kingdom\n"
        "C536379,85123A,WHITE HANGING HEART,-1,12/1/2010 9:41,2.55,17850,United Kingdom\n"
        "536414,22139,,56,12/1/2010 11:52,0,,United Kingdom\n"
        "536415,71053,WHITE METAL LANTERN,1,12/13/2010 11:57,3.39,13047,France\n"
    )
    dataset = import_dataset("online-retail", put(tmp_path, {file: f"{head}\n{rows}"}))
    assert titles(dataset) == {"85123A": "WHITE HANGING HEART", "71053": "WHITE METAL LANTERN"}
    assert dataset.items["price"].to_list() == [2.55, 3.39]
    assert events(dataset, "user_id", "item_id", "kind", "time") == [
        ("17850", "85123A", "conversion", 1291191960),
        ("17850", "71053", "conversion", 1291191960),
        ("13047", "71053", "conversion", 1292241420),
    ]
    assert dataset.manifest.account["rows"]["events"] == {"in": 5, "out": 3}


def test_yelp(tmp_path):
    review = {"review_id": "r", "useful": 0, "text": "If you decide, to eat here\nbe aware"}
    reviews = [
        {
            **review,
            "user_id": "mh_-eMZ6K5RLWhZyISBhwA",
            "business_id": "XQf",
            "stars": 3.0,
            "date": "2018-07-07 22:09:11",
        },
        {
            **review,
            "user_id": "OyoGAe7OKpv6SyGZT5g77Q",
            "business_id": "7AT",
            "stars": 5.0,
            "date": "2012-01-03 15:28:18",
        },
        {
            **review,
            "user_id": "mh_-eMZ6K5RLWhZyISBhwA",
            "business_id": "7AT",
            "stars": 4.0,
            "date": "2019-01-03 15:28:18",
        },
    ]
    business = [
        {
            "business_id": "XQf",
            "name": "Turning Point",
            "city": "Wales",
            "state": "PA",
            "categories": "Food, Coffee & Tea",
        },
        {
            "business_id": "7AT",
            "name": "Body Cycle",
            "city": "Philadelphia",
            "state": "PA",
            "categories": "Gyms, Food",
        },
    ]
    files = {
        "yelp_academic_dataset_review.json": "\n".join(map(json.dumps, reviews)),
        "yelp_academic_dataset_business.json": "\n".join(map(json.dumps, business)),
    }
    dataset = import_dataset("yelp", put(tmp_path, files))
    assert titles(dataset) == {"XQf": "Turning Point", "7AT": "Body Cycle"}
    assert dataset.items["categories"].to_list() == [["Food", "Coffee & Tea"], ["Gyms", "Food"]]
    assert events(dataset, "user_id", "item_id", "value", "time")[0] == (
        "OyoGAe7OKpv6SyGZT5g77Q",
        "7AT",
        5,
        1325604498,
    )


VIDEOS = {
    "big_matrix.csv": "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    "0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.273397\n"
    "0,9598,13665,10984,2020-07-05 00:13:41.297,20200705,1593879221.297,0.244082\n"
    "1,3649,29338,10867,2020-07-06 00:13:41.297,20200706,1593965621.297,2.7\n",
    "kuairec_caption_category.csv": "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,"
    "first_level_category_name,second_level_category_id,second_level_category_name\n3649,UNKNOWN,精神小伙路难走,[],8,颜值,"
    "673,颜值随拍\n9598,UNKNOWN,,[],27,高新数码,-124,UNKNOWN\n",
    "user_features.csv": "user_id,user_active_degree,follow_user_num_range,register_days_range\n0,high_active,"
    '"(10,50]",61-90\n1,full_active,0,8-14\n',
}


def test_kuairec(tmp_path):
    dataset = import_dataset("kuairec", put(tmp_path, {f"KuaiRec 2.0/data/{k}": v for k, v in VIDEOS.items()}))
    assert titles(dataset) == {"3649": "精神小伙路难走", "9598": "9598"}
    assert events(dataset, "user_id", "item_id", "kind", "value", "time") == [
        ("0", "3649", "impression", None, 1593878903),
        ("0", "3649", "rating", 1.273397, 1593878903),
        ("0", "9598", "impression", None, 1593879221),
        ("0", "9598", "rating", 0.244082, 1593879221),
        ("1", "3649", "impression", None, 1593965621),
        ("1", "3649", "rating", 2.7, 1593965621),
    ]
    assert dataset.user("1").profile.startswith("user active degree: full_active")


ATOMIC = {
    "ml/ml.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n"
    "186\t302\t3\t891717742\n196\t302\t5\t881250950\n",
    "ml/ml.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tKolya\t1996\tComedy\n302\tL.A. Confidential\t1997\tCrime Film-Noir\n",
    "ml/ml.user": "user_id:token\tage:token\tgender:token\n196\t49\tM\n186\t39\tF\n",
}


def test_recbole(tmp_path):
    dataset = import_dataset("recbole", put(tmp_path, ATOMIC))
    assert titles(dataset) == {"242": "Kolya", "302": "L.A. Confidential"}
    assert events(dataset, "user_id", "item_id", "value", "time") == [
        ("196", "242", 3, 881250949),
        ("196", "302", 5, 881250950),
        ("186", "302", 3, 891717742),
    ]
    assert dataset.user("196").profile == "age: 49; gender: M"


def test_recbole_without_items_and_times(tmp_path):
    files = {"x.inter": "user_id:token\tartist_id:token\tweight:float\nu\t7\t3\nu\t8\t40\nv\t7\t1\n"}
    dataset = import_dataset("recbole", put(tmp_path, files))
    assert titles(dataset) == {"7": "7", "8": "8"}
    assert events(dataset, "user_id", "item_id", "value", "time") == [
        ("u", "7", 3, 1),
        ("u", "8", 40, 2),
        ("v", "7", 1, 3),
    ]


def test_one_command_with_options_on_top(tmp_path):
    put(tmp_path / "in", SHOP)
    command = ["data", "import", "retailrocket", str(tmp_path / "in"), str(tmp_path / "out"), "--option", "name=rr"]
    result = CliRunner().invoke(app, [*command, "--kind", "addtocart=click"])
    assert result.exit_code == 0, result.output
    dataset = Dataset.load(tmp_path / "out")
    assert (dataset.manifest.name, dataset.manifest.counts["click"]) == ("rr", 4)


@pytest.mark.parametrize(
    ("kind", "files"),
    [("book-crossing", BOOKS), ("goodbooks", GOODBOOKS), ("retailrocket", SHOP), ("mind", NEWS), ("kuairec", VIDEOS)],
)
def test_a_layout_is_recognised(tmp_path, kind, files):
    assert recognise(put(tmp_path, files)) == (kind, tmp_path)


def test_files_of_other_data_are_no_layout(tmp_path):
    put(tmp_path, {"data.csv": "a,b\n1,2\n", "ratings.csv": "who,what\n1,2\n", "books.csv": "id,name\n1,x\n"})
    with pytest.raises(DataError, match="holds no data of a known layout"):
        recognise(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    put(tmp_path, {"BX-Books.csv": BOOKS["BX-Books.csv"], "notes.txt": "x"})
    with pytest.raises(
        DataError, match=r"lacks BX-Book-Ratings\.csv or Ratings\.csv .* \(it has: BX-Books\.csv, notes"
    ):
        import_dataset("book-crossing", tmp_path)


def test_every_importer_stands_in_the_help():
    texts = [CliRunner().invoke(app, [*words, "--help"]).output for words in (["data", "import"], ["run"])]
    assert {"lastfm", "steam", "yelp", "online-retail", "recbole"} <= set(layout_names())
    for text in texts:
        plain = " ".join(text.replace("│", " ").split())
        assert [name for name in IMPORTERS if name not in plain.replace("- ", "-")] == []
