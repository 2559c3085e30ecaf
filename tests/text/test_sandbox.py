"""Templates of strangers: whatever they ask for ends within seconds and megabytes, with one sentence."""

import resource
import time

import pytest

from llmrec.errors import ConfigError
from llmrec.text.budget import PromptEncoder
from llmrec.text.templates import TemplateSet, shipped_sources
from tests.text.conftest import train_tokenizer

LOOPS = "{% for a in range(10000) %}{% for b in range(10000) %}{{ a }}{% endfor %}{% endfor %}"
BOMBS = {
    "nested loops": LOOPS,
    "empty loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops with text": "{% for a in range(99999) %}" + "x" * 5000 + "{% endfor %}",
    "loops of lists": "{% for a in range(5000) %}{% if range(99999) | list %}{% endif %}{% endfor %}",
    "recursive loop": "{% for a in [1, 2] recursive %}{{ loop(range(1000)) }}{% endfor %}",
    "doubled text": "{% set n = namespace(a='xx') %}{% for i in range(40) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "doubled lists": "{% set a = [1, 1] %}" + "{% set a = [a, a] %}" * 50 + "{{ a }}",
    "doubled sums": "{% set a = [1, 1] %}" + "{% set a = a + a %}" * 50 + "{{ a }}",
    "repeated text": "{{ 'a' * 1000000000 }}",
    "width by %": "{{ '%1000000000s' % 'a' }}",
    "width by format": "{{ '{:>1000000000}'.format(1) }}",
    "width by filter": "{{ 'a' | center(1000000000) }}",
    "width by argument": "{{ '%*s' % (1000000000, 'a') }}",
    "width by named argument": "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "width by mapping": "{{ '{a:{w}}'.format_map({'a': 1, 'w': 1000000000}) }}",
    "width by method": "{{ 'a'.ljust(1000000000) }}",
    "replaced": "{% set a = 'a'.ljust(90000) %}{{ a.replace('', a) }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "macro of itself": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "include of itself": "{% include 'state.jinja' %}",
    "words": "{{ lipsum(n=10000000) }}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks": "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "length": "x" * 1_000_000,
    "other files": "{% include '/etc/passwd' %}",
    "other folders": "{% import '../../secret' as s %}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_does_too_much_is_refused_soon(name):
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as error:
        TemplateSet({**shipped_sources("en", "shop"), "state.jinja": BOMBS[name]}).render("state.jinja")
    assert "state.jinja" in str(error.value)
    assert len(str(error.value)) < 400
    assert time.process_time() - start < 5, "seconds of this process; mostly far below 1"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000, "kilobytes"


def test_what_templates_need_still_works():
    source = (
        "{% set names = {'a': 'A'} %}{% for x, y in pairs %}{{ loop.index }}/{{ loop.length }} {{ names.get(x, x) }} "
        "{{ y | join('; ') }}{% if not loop.last %}, {% endif %}{% endfor %} {{ 7 % 2 }} {{ 2 * 3 }} {{ '-' * 3 }} "
        "{{ '%s!' % 'so' }} {{ 'ab'.upper() }} {{ 2 ** 10 }} {{ [1] + [2] }} {{ {'k': [1]} }}"
    )
    templates = TemplateSet({**shipped_sources("en", "shop"), "state.jinja": source})
    shown = templates.render("state.jinja", pairs=[("a", ["p", "q"]), ("b", ["r"])])
    assert shown == "1/2 A p; q, 2/2 b r 1 6 --- so! AB 1024 [1, 2] {'k': [1]}"


def test_a_budget_is_of_one_rendering():
    templates = TemplateSet(
        {**shipped_sources("en", "shop"), "state.jinja": "{% for i in range(9999) %}a{% endfor %}"}
    )
    assert all(len(templates.render("state.jinja")) == 9999 for _ in range(40))


CHAT = (
    "{% set ns = namespace(last=messages | length - 1) %}{% for m in messages[::-1] %}"
    "{% if m.role == 'user' %}{% set ns.last = messages | length - 1 - loop.index0 %}{% break %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endfor %}"
    "{% generation %}{% if add_generation_prompt %}<|assistant|>{% endif %}{% endgeneration %}"
    "{{ '' if enable_thinking is defined and not enable_thinking else (tools | tojson(indent=2)) }}"
)


def test_chat_templates_of_strangers_have_the_same_bounds():
    tokenizer = train_tokenizer([])
    tokenizer.chat_template = CHAT
    encoder = PromptEncoder(tokenizer)
    assert (encoder.before, encoder.after) == ("<|user|>", "<|assistant|>")
    for bomb in (LOOPS, BOMBS["doubled text"], "{{ raise_exception('\x1b[31m no\nway') }}", "{{ nobody.there }}"):
        tokenizer.chat_template = bomb
        with pytest.raises(ConfigError, match="chat template") as error:
            PromptEncoder(tokenizer)
        assert str(error.value).isprintable()
