from html.parser import HTMLParser

from nas_gan.runs.looks import MOST, key_html, looks_of, short_names, still_chosen


def test_as_many_runs_as_the_page_says_look_different():
    looks = looks_of([f"run {n}" for n in range(MOST)])
    assert len(set(looks.values())) == MOST >= 12


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)


def test_the_key_holds_whole_names_and_no_markup_of_theirs():
    names = ["a" * 90, "<script>alert(1)</script>"]
    reader = Reader()
    reader.feed(key_html(looks_of(names)))
    assert reader.texts == names
    assert reader.tags == {"div", "span"}


def test_a_choice_survives_a_run_that_begins_and_one_that_goes():
    names = ["b", "a"]
    assert still_chosen([], [], names, most=12) == names
    # b was taken out by hand and stays out; c has just begun and joins.
    assert still_chosen(["a"], names, ["c", *names], most=12) == ["c", "a"]
    assert still_chosen(["b", "a"], names, ["a"], most=12) == ["a"]


def test_at_first_only_the_newest_are_chosen():
    names = [str(n) for n in range(20)]
    assert still_chosen([], [], names, most=12) == names[:12]


def test_short_names_are_still_different():
    names = ["grid/a/seed_0", "grid/b/seed_0", "seed_0", "x/y"]
    short = short_names(names)
    assert len(set(short.values())) == len(names)
    assert short["grid/a/seed_0"] == "a/seed_0"
    assert short["x/y"] == "y"
