"""The page in Gradio: it wires inputs and buttons to the studio, and knows nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read as gradio is imported: nothing is told to anybody

import gradio as gr

from llmrec.errors import LLMRecError
from llmrec.evaluation.reporting.record import RECORD, read_record
from llmrec.page.shown import board_html, found_html, head_html, style, training_html, visit_html
from llmrec.page.studio import MOST_PLACES, Board, Studio
from llmrec.page.training import read_training
from llmrec.page.visit import WHO, Visit
from llmrec.page.words import words
from llmrec.printing import one_line, short_line
from llmrec.text.objectives import LEVELS, word_of

EVERY_S = 5
"""Seconds between two looks at a training that runs."""
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "sans-serif")
ACTS = """
let last = null;
element.addEventListener('click', (event) => {
  const button = event.target.closest('button.act');
  if (!button || !element.contains(button)) return;
  last = {item: button.dataset.item, kind: button.dataset.kind, at: button.dataset.at};
  trigger('click', last);
});
watch('value', () => {
  if (!last || (document.activeElement && document.activeElement !== document.body)) return;
  const all = [...element.querySelectorAll('button.act')];
  const is = (b, key) => b.dataset[key] === last[key];
  const same = all.find((b) => is(b, 'item') && is(b, 'kind') && is(b, 'at'));
  const next = same || all.find((b) => is(b, 'at')) || all[0];
  if (next) next.focus({preventScroll: true});
});
"""
"""A button of a slate or of the search tells which item it is of; the focus stays with it when the slates move."""
LIVE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"


def make_page(run: Path, studio: Studio | None, language: str) -> gr.Blocks:
    """The page of a run; without a studio (the run is not finished) its training alone."""
    w = words(language)
    report = read_record(run / RECORD) if (run / RECORD).is_file() else None
    name = short_line(run.resolve().name)
    with gr.Blocks(title=f"llmrec: {name}", analytics_enabled=False) as page:
        absent = () if studio is None else studio.loaded.absent
        _html(value=head_html(name, report, absent, language, running=studio is None))
        with gr.Tabs():
            if studio is not None:
                with gr.Tab(w["try"]):
                    _Trying(studio, language).build(page)
            with gr.Tab(w["training"]):
                _training(page, run, language)
    return page


def _training(page: gr.Blocks, run: Path, language: str) -> None:
    def drawn() -> tuple[str, dict[str, Any]]:
        training = read_training(run)
        running = training is None or training.running
        return training_html(training, EVERY_S, language), gr.Timer(active=running)

    figure = _html(elem_id="curves")
    timer = gr.Timer(EVERY_S, active=False)
    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    page.load(drawn, outputs=[figure, timer], **options)
    timer.tick(drawn, outputs=[figure, timer], **options)


def _html(script: str | None = None, **more: Any) -> gr.HTML:
    """A part that is drawn by `shown`, in a look of its own."""
    return gr.HTML(js_on_load=script, apply_default_css=False, **more)


class _Trying:
    """The part of the page with slates.

    Args:
        studio: answers.
        language: of the page's own words.
    """

    def __init__(self, studio: Studio, language: str) -> None:
        self.studio, self.language, self.w = studio, language, words(language)

    def build(self, page: gr.Blocks) -> None:
        """Lays the parts out and wires them."""
        w, users = self.w, self.studio.users()
        kinds = [who for who in WHO if who != "user" or users]
        shown, levels = gr.State(None), gr.State({})
        with gr.Row(elem_id="trying"):
            with gr.Column(scale=1, min_width=300, elem_id="asking"):
                who = gr.Radio([(w[kind], kind) for kind in kinds], value=kinds[0], label=w["who"], elem_id="who")
                user = gr.Dropdown(
                    users,
                    value=users[0] if users else None,
                    label=w["user_id"],
                    allow_custom_value=True,
                    visible=kinds[0] == "user",
                    elem_id="user",
                )
                text = gr.Textbox(
                    label=w["text"],
                    placeholder=w["text_hint"],
                    lines=3,
                    visible=kinds[0] != "user",
                    elem_id="text",
                    max_length=4000,
                )
                show = gr.Button(w["show"], variant="primary", elem_id="show")
                query = gr.Textbox(label=w["search"], placeholder=w["search_hint"], elem_id="search", max_length=100)
                found = _html(ACTS, elem_id="found")
                with gr.Column(elem_id="visited"):
                    visit = _html(elem_id="visit")
                    with gr.Row():
                        undo = gr.Button(w["undo"], size="sm", elem_id="undo")
                        anew = gr.Button(w["anew"], size="sm", elem_id="anew")
            with gr.Column(scale=3, min_width=320):
                names = gr.CheckboxGroup(
                    self.studio.names, value=self.studio.names[:3], label=w["systems"], elem_id="systems"
                )
                with gr.Accordion(w["more"], open=False), gr.Row():
                    most = min(MOST_PLACES, len(self.studio.items))
                    places = gr.Slider(1, most, value=min(6, most), step=1, label=w["places"], elem_id="places")
                    why = gr.Slider(0, most, value=min(3, most), step=1, label=w["reasons"], elem_id="reasons")
                sliders = self._sliders()
                status = _html(LIVE, elem_id="status")
                slates = _html(ACTS, elem_id="slates")
        asked, told = [shown, who, user, text, names, places, why, levels], [shown, slates, visit, status]
        one = {"concurrency_limit": 1, "concurrency_id": "policy", "show_progress": "hidden"}
        who.change(_fields, who, [user, text], show_progress="hidden", api_visibility="private")
        begin = {"fn": self._begin, "inputs": asked, "outputs": told, **one}
        show.click(**begin, api_name="show")
        text.submit(**begin, api_visibility="private")
        user.select(**begin, api_visibility="private")
        page.load(**begin, api_visibility="private")
        # changes, not releases, which the keyboard has none of
        often = {"api_visibility": "private", "trigger_mode": "always_last"}
        for control in (names, places, why):
            control.change(self._again, asked, told, **often, **one)
        for slider in sliders:
            weighed = slider.change(self._levels, sliders, levels, show_progress="hidden", **often)
            weighed.then(self._weighed, asked, told, api_visibility="private", **one)
        undo.click(self._undo, asked, told, api_name="undo", **one)
        anew.click(self._anew, asked, told, api_name="anew", **one)
        for buttons in (slates, found):
            buttons.click(self._acted, asked, told, api_visibility="private", **one)
        query.input(self._search, query, found, api_name="search", show_progress="hidden", trigger_mode="always_last")

        def act(item: int, kind: str) -> str:
            """An act as a request: what comes of it for a visitor of whom nothing else is known."""
            return board_html(
                self._board(self.studio.act(Visit(), item, kind), None, self.studio.names, 6, 3), self.language
            )

        gr.api(act, api_name="act", concurrency_limit=1, concurrency_id="policy")

    def _sliders(self) -> list[gr.Slider]:
        """One for each term whose weight the run reads."""
        weighed = self.studio.weighed
        if not weighed:
            return []
        most = LEVELS - 1
        with gr.Accordion(self.w["weigh"], open=True, elem_id="weigh"), gr.Row():
            return [gr.Slider(0, most, value=most, step=1, label=word_of(n, self.language)) for n in weighed]

    def _levels(self, *levels: float) -> dict[str, int]:
        return dict(zip(self.studio.weighed, map(int, levels), strict=True))

    def _begin(self, _: Board | None, *asked: Any) -> Any:
        who, user, text, names, k, why, levels = asked

        def board() -> Board:
            visit = Visit.of(who, (user if who == "user" else text) or "").weighing(levels)
            return self._board(visit, None, names, k, why)

        return self._told(board)

    def _again(self, shown: Board | None, *asked: Any) -> Any:
        if shown is None:
            return self._begin(shown, *asked)
        _, _, _, names, k, why, _ = asked
        return self._told(lambda: self._board(shown.visit, None, names, k, why))

    def _weighed(self, shown: Board | None, *asked: Any) -> Any:
        return self._changed(shown, asked, lambda visit: visit.weighing(asked[-1]))

    def _undo(self, shown: Board | None, *asked: Any) -> Any:
        return self._changed(shown, asked, lambda visit: visit.undone())

    def _anew(self, shown: Board | None, *asked: Any) -> Any:
        return self._changed(shown, asked, lambda visit: visit.anew())

    def _acted(
        self,
        shown: Board | None,
        who: str,
        user: str,
        text: str,
        names: list[str],
        k: int,
        why: int,
        levels: dict[str, int],
        event: gr.EventData,
    ) -> Any:
        sent = event._data if isinstance(event._data, dict) else {}
        asked = (who, user, text, names, k, why, levels)
        return self._changed(shown, asked, lambda visit: self.studio.act(visit, sent.get("item"), sent.get("kind")))

    def _changed(self, shown: Board | None, asked: Any, change: Callable[[Visit], Visit]) -> Any:
        if shown is None:
            return self._begin(shown, *asked)
        _, _, _, names, k, why, _ = asked
        return self._told(lambda: self._board(change(shown.visit), shown, names, k, why))

    def _board(self, visit: Visit, before: Board | None, names: list[str], k: int, why: int) -> Board:
        return self.studio.board(visit, names, k=int(k), reasons=int(why), before=before)

    def _told(self, make: Callable[[], Board]) -> Any:
        try:
            board = make()
        except LLMRecError as error:
            raise gr.Error(str(_plain(error)), title="llmrec", print_exception=False) from None
        said = self.w["answer"].format(acts=len(board.did), slates=len(board.columns), seconds=f"{board.seconds:.1f}")
        status = f'<p class="llmrec note">{said}</p>'
        return board, board_html(board, self.language), visit_html(board, self.language), status

    def _search(self, query: str) -> str:
        return found_html(self.studio.search(query or ""), query or "", self.language)


def _plain(error: LLMRecError) -> str:
    """A sentence for the browser's message box, which reads HTML."""
    from llmrec.page.shown import inert

    return str(inert(one_line(error)))


def _fields(who: str) -> tuple[Any, Any]:
    return gr.Dropdown(visible=who == "user"), gr.Textbox(visible=who != "user")


def look() -> dict[str, Any]:
    """Theme and style, which Gradio asks for where the page is served: no font from the network."""
    return {"theme": gr.themes.Base(font=FONTS, font_mono=("ui-monospace", "monospace")), "css": style()}
