"""What stands around the text of a row: a template of one's own, or the model's chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from objectives.errors import RequestError, first_line
from objectives.rows import shorten

PLAIN_TEMPLATE = "{text}\nAnswer:"
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
#: White space that no chat template has of its own, around the mark: by it is seen whether that of a text is kept.
_SPACE = "\t"
#: What chat templates are told that today is: with prompts that change from day to day, neither a resumed search nor a
#: series could be compared with what was measured before. The day that Llama 3.2's template takes without a clock.
_DATE = datetime(2024, 7, 26)


@dataclass(frozen=True)
class Template:
    """What stands before and after the row's text. ``lead`` separates the prompt from the completion."""

    before: str
    after: str
    lead: str
    special: bool  # whether the tokenizer adds its own first tokens; a chat template brings them itself
    end: str = ""  # what a chat template has behind an answer
    opening: str = ""  # what it has in front of one beside white space, and does not end a prompt with
    trims: bool = False  # whether it takes away the white space around a text, as those of Llama 3 and Gemma do

    @classmethod
    def choose(cls, tokenizer: Any, template: str | None) -> Template:
        """``None``: the tokenizer's chat template if it has one, else :data:`PLAIN_TEMPLATE`.

        Raises RequestError for a template without exactly one ``{text}``, and for ``chat`` without a chat template.
        """
        has_chat = _has_chat(tokenizer)
        if template == "chat" and not has_chat:
            raise RequestError(
                "--template chat: this model's tokenizer has no chat template; pass a template such as "
                f"{PLAIN_TEMPLATE!r} or leave the option out"
            )
        if template in (None, "chat"):
            if has_chat:
                turn, lead, end = _chat(tokenizer)
                before, _, after = turn.partition(_MARK)
                trims = not (before.endswith(_SPACE) and after.startswith(_SPACE))
                before, after = before.removesuffix(_SPACE), after.removeprefix(_SPACE)
                spaces = lead if lead.isspace() else ""
                opening = "" if spaces else lead
                return cls(before, after, spaces, special=False, end=end, opening=opening, trims=trims)
            template = PLAIN_TEMPLATE
        if template.count("{text}") != 1:
            raise RequestError(f"--template {template!r} must hold {{text}} exactly once, where the row's text goes")
        before, _, whole = template.replace("\\n", "\n").partition("{text}")
        # Most tokens of words begin with the space in front of them, so a prompt that ends with it is followed by words
        # that models do not know.
        after = whole.rstrip(" ")
        lead = whole[len(after) :] or ("" if after.endswith("\n") else " ")
        return cls(before, after, lead, special=True)

    def behind(self, end: str, tokenizer: Any) -> Template:
        """Where rows bring the chat template, and all end with ``end`` as that does: led and ended as it has it."""
        if self.special and not self.after:
            with suppress(RequestError):  # none; or a template of one's own is the remedy for one that cannot be used
                chat = Template.choose(tokenizer, "chat")
                if chat.after and end.endswith(chat.after):
                    return replace(self, lead=chat.lead, end=chat.end)
        return self

    def doubts(self) -> Iterator[str]:
        """What a model may expect that no prompt has, as the empty thoughts of Qwen3, or the channel of gpt-oss; and
        thoughts that prompts begin, as those of DeepSeek-R1.
        """
        if self.opening:
            yield (
                f"the chat template has {shorten(self.opening)} in front of an answer, and prompts end without it, as "
                "those of servers do: adapters learn to leave it out, but the base model may begin with it, and its "
                "figures are then too low; to have it in prompts, give a --template that ends with it"
            )
        if not self.special and self.after.rfind("<think>") > self.after.rfind("</think>"):
            yield (
                "the chat template ends prompts within the model's thoughts (<think>), so answers are trained and "
                "scored as thoughts, and a server that tells thoughts from answers takes them for such: give a "
                "--template that ends with </think>"
            )

    def head(self, text: str) -> str:
        """Of the prompt of a row: what stands in front of ``after``."""
        return self.before + (text.strip() if self.trims else text)

    @property
    def text(self) -> str:
        return self.before + "{text}" + self.after


def _has_chat(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def _clock() -> str:
    """In front of a chat template, in place of the clock that transformers gives it: a function cannot be given one."""
    directives = [f"%{flag}{letter}" for letter in "aAbBdejmyYHIMpS" for flag in ("", "-")]
    known = "".join(f".replace('{each}', '{_DATE.strftime(each).strip()}')" for each in directives)
    return f"{{% macro strftime_now(format) %}}{{{{ format{known} }}}}{{% endmacro %}}{{{{ '' }}}}"


def _chat(tokenizer: Any) -> tuple[str, str, str]:
    """A user's turn that says the mark, with the white space around it that the chat template leaves, and what it has
    before an answer and behind one.

    Raises RequestError where it does not say the mark.
    """

    def said(*messages: Mapping[str, Any], prompt: bool) -> str:
        text: str = tokenizer.apply_chat_template(
            messages,
            chat_template=_clock() + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=prompt,
        )
        return text

    reason = "it does not show what the user says"
    # Text, or for models that see images too, a list of parts.
    for content in (str, lambda text: [{"type": "text", "text": text}]):
        user = {"role": "user", "content": content(_SPACE + _MARK + _SPACE)}
        answer = {"role": "assistant", "content": content(_MARK)}
        try:
            turn = said(user, prompt=True)
        except Exception as error:  # a template is a program of its maker's
            reason = first_line(error)
            continue
        if turn.count(_MARK) != 1:
            continue
        try:
            both = said(user, answer, prompt=False)
        except Exception:  # it has no answers
            both = turn
        lead = both[len(turn) :].partition(_MARK)[0] if both.startswith(turn) else ""
        end = both.rpartition(_MARK)[2] if both.count(_MARK) == 2 else ""
        return turn, lead, end
    raise RequestError(
        f"the chat template of this model's tokenizer cannot be used for a single turn ({reason}): pass a --template "
        f"such as {PLAIN_TEMPLATE!r}"
    )
