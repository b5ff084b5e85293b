"""Completion scripts for shells, made from the table of flags."""

from __future__ import annotations

from collections.abc import Callable

from pgetpy.cli.options import CACHE_COMMANDS, COMMANDS, FLAGS, SHELLS, Flag

_SHOWN = tuple(flag for flag in FLAGS if not flag.deprecated)
_FILE_FLAGS = tuple(flag for flag in _SHOWN if flag.value in {"FILE", "PATH", "DIR"})


def completion_script(shell: str) -> str:
    """Return the script for `shell`, one of SHELLS."""
    return _SCRIPTS[shell]().rstrip()


def _names(flag: Flag) -> list[str]:
    return [f"--{flag.name}", *([f"-{flag.short}"] if flag.short else [])]


def _bash() -> str:
    cases = [
        f'    {"|".join(_names(flag))})\n      COMPREPLY=($(compgen -W "{" ".join(flag.words)}" -- '
        f'"$current"))\n      return ;;'
        for flag in _SHOWN
        if flag.words
    ]
    plain = "|".join(
        name for flag in _SHOWN if flag.value and not flag.words for name in _names(flag)
    )
    flags = " ".join(name for flag in _SHOWN for name in _names(flag))
    return f"""\
# bash completion for pgetpy: source <(pgetpy completion bash)
_pgetpy() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
  COMPREPLY=()
  case "$previous" in
    completion)
      COMPREPLY=($(compgen -W "{" ".join(SHELLS)}" -- "$current"))
      return ;;
{chr(10).join(cases)}
    {plain})
      COMPREPLY=($(compgen -f -- "$current"))
      return ;;
  esac
  if [[ "$current" == -* ]]; then
    COMPREPLY=($(compgen -W "{flags}" -- "$current"))
  elif [[ "$COMP_CWORD" -eq 1 ]]; then
    COMPREPLY=($(compgen -W "{" ".join(COMMANDS)}" -- "$current"))
  elif [[ "$COMP_CWORD" -eq 2 && "$previous" == cache ]]; then
    COMPREPLY=($(compgen -W "{" ".join(CACHE_COMMANDS)}" -- "$current"))
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -o filenames -F _pgetpy pgetpy
"""


def _zsh() -> str:
    specs = "\n".join(f"    {_zsh_spec(flag)} \\" for flag in _SHOWN)
    commands = " ".join(COMMANDS)
    return f"""\
#compdef pgetpy
# zsh completion for pgetpy: source <(pgetpy completion zsh)
_pgetpy_second() {{
  if [ "$line[1]" = cache ]; then
    compadd {" ".join(CACHE_COMMANDS)}
  else
    _files
  fi
}}
_pgetpy() {{
  local line
  _arguments -s \\
{specs}
    '1:command or URL:({commands})' \\
    '2: :_pgetpy_second' \\
    '*:file:_files'
}}
if [ "$funcstack[1]" = "_pgetpy" ]; then
  _pgetpy "$@"
else
  compdef _pgetpy pgetpy
fi
"""


def _zsh_spec(flag: Flag) -> str:
    about = "".join(f"\\{char}" if char in "[]:\\" else char for char in flag.help)
    action = f":{flag.value.replace(':', chr(92) + ':')}:" if flag.value else ""
    if flag.words:
        action += f"({' '.join(flag.words)})"
    elif flag in _FILE_FLAGS:
        action += "_files"
    repeat = "*" if flag.many else ""
    specs = []
    for name in _names(flag):
        equals = "=" if flag.value and name.startswith("--") else ""
        specs.append(_single_quoted(f"{repeat}{name}{equals}[{about}]{action}"))
    return " ".join(specs)


def _fish() -> str:
    lines = ["# fish completion for pgetpy: pgetpy completion fish | source"]
    for name, about in COMMANDS.items():
        lines.append(
            f"complete -c pgetpy -n __fish_use_subcommand -a {name} -d {_fish_quoted(about)}"
        )
    shells = " ".join(SHELLS)
    lines.append(f"complete -c pgetpy -n '__fish_seen_subcommand_from completion' -x -a '{shells}'")
    lines += [
        f"complete -c pgetpy -n '__fish_seen_subcommand_from cache' -a {name} "
        f"-d {_fish_quoted(about)}"
        for name, about in CACHE_COMMANDS.items()
    ]
    for flag in _SHOWN:
        parts = [f"complete -c pgetpy -l {flag.name}"]
        if flag.short:
            parts.append(f"-s {flag.short}")
        if flag.words:
            parts.append(f"-x -a '{' '.join(flag.words)}'")
        elif flag.value:
            parts.append("-r" if flag in _FILE_FLAGS else "-x")
        parts.append(f"-d {_fish_quoted(flag.help)}")
        lines.append(" ".join(parts))
    return "\n".join(lines) + "\n"


def _powershell() -> str:
    words = [*COMMANDS.items(), *CACHE_COMMANDS.items()]
    words += [(name, flag.help) for flag in _SHOWN for name in _names(flag)]
    rows = "\n".join(f"        @({_ps_quoted(name)}, {_ps_quoted(help_)})" for name, help_ in words)
    return f"""\
# PowerShell completion for pgetpy: pgetpy completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName pgetpy -ScriptBlock {{
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @(
{rows}
    )
    $words | Where-Object {{ $_[0] -like "$wordToComplete*" }} | ForEach-Object {{
        [System.Management.Automation.CompletionResult]::new($_[0], $_[0], 'ParameterValue', $_[1])
    }}
}}
"""


def _single_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _ps_quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_SCRIPTS: dict[str, Callable[[], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
    "powershell": _powershell,
}
