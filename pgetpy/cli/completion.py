"""Completion scripts for shells, made from the tables of options and commands.

A script is complete in itself: completing a word must not start Python, which takes longer than a
person waits. It is made anew when a shell reads it (`source <(pgetpy completion bash)`), so it fits
the version that is installed. Deprecated flags are left out.

Each shell has its own quoting; help texts go through it, since they hold brackets and colons.

    bash          words for the position; values of an option by the word before it
    zsh           `_arguments` specs: '--name=[help]:VALUE:action'; `*` where it may be repeated
    fish          one `complete` line each, with conditions for subcommands
    PowerShell    one list of words with tooltips

Only zsh and fish know which options take files; bash offers files wherever a value may be one.
"""

from __future__ import annotations

from collections.abc import Callable

from pgetpy.cli.command_table import COMMANDS, SHELLS, SUBCOMMANDS, TOP_COMMANDS
from pgetpy.cli.option_table import FLAGS, OPTIONS
from pgetpy.settings.options import Option

_SHOWN = tuple(option for option in OPTIONS if not option.deprecated)
_FILE_VALUES = frozenset({"FILE", "PATH", "DIR"})


def completion_script(shell: str) -> str:
    """Return the script for `shell`, one of SHELLS."""
    return _SCRIPTS[shell]().rstrip()


# What each shell's script does with a word: after a flag with choices they are offered, after
# another flag with a value names of files are; a dash at the beginning offers flags (bash: those
# of the command); the first word may be a command, and the second one below it.


def _bash() -> str:
    cases = [
        f"    {'|'.join(FLAGS[option.name])})\n"
        f'      COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$current"))\n'
        f"      return ;;"
        for option in _SHOWN
        if option.choices
    ]
    plain = "|".join(
        name
        for option in _SHOWN
        if option.value and not option.choices
        for name in FLAGS[option.name]
    )
    groups = "|".join(f'"{above} "*' for above in SUBCOMMANDS)
    subcommands = "\n".join(
        f'  elif [[ "$COMP_CWORD" -eq 2 && "$previous" == {above} ]]; then\n'
        f'    COMPREPLY=($(compgen -W "{" ".join(below)}" -- "$current"))'
        for above, below in SUBCOMMANDS.items()
    )
    return f"""\
# bash completion for pgetpy: source <(pgetpy completion bash)
_pgetpy() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[1]}}" flags="{_flags_of("download")}"
  COMPREPLY=()
  # --flag=value is three words here.
  if [[ "$current" == "=" ]]; then
    current=""
  elif [[ "$previous" == "=" ]]; then
    previous="${{COMP_WORDS[COMP_CWORD-2]}}"
  fi
  case "$command ${{COMP_WORDS[2]-}}" in
    *" -"*) ;;
    {groups}) command="$command ${{COMP_WORDS[2]-}}" ;;
  esac
  case "$previous" in
    completion)
      COMPREPLY=($(compgen -W "{" ".join(SHELLS)}" -- "$current"))
      return ;;
    help)
      COMPREPLY=($(compgen -W "{" ".join(TOP_COMMANDS)}" -- "$current"))
      return ;;
{chr(10).join(cases)}
    {plain})
      COMPREPLY=($(compgen -f -- "$current"))
      return ;;
  esac
  if [[ "$current" == -* ]]; then
    case "$command" in
{_bash_flags()}
    esac
    COMPREPLY=($(compgen -W "$flags" -- "$current"))
  elif [[ "$COMP_CWORD" -eq 1 ]]; then
    COMPREPLY=($(compgen -W "{" ".join(TOP_COMMANDS)}" -- "$current"))
{subcommands}
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -o filenames -F _pgetpy pgetpy
"""


def _bash_flags() -> str:
    """Return the branches that choose the flags of a command; those with the same share one."""
    takes: dict[str, list[str]] = {}
    for command in sorted(COMMANDS.keys() - {"download"}):
        takes.setdefault(_flags_of(command), []).append(f'"{command}"')
    return "\n".join(
        f'    {"|".join(commands)}) flags="{names}" ;;' for names, commands in takes.items()
    )


def _flags_of(command: str) -> str:
    taken = (option for option in _SHOWN if command in option.commands)
    return " ".join(name for option in taken for name in FLAGS[option.name])


def _zsh() -> str:
    specs = "\n".join(f"    {_zsh_spec(option)} \\" for option in _SHOWN)
    commands = " ".join(TOP_COMMANDS)
    subcommands = "\n".join(
        f"    {above}) compadd {' '.join(below)} ;;" for above, below in SUBCOMMANDS.items()
    )
    return f"""\
#compdef pgetpy
# zsh completion for pgetpy: source <(pgetpy completion zsh)
_pgetpy_second() {{
  case "$line[1]" in
{subcommands}
    *) _files ;;
  esac
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


def _zsh_spec(option: Option) -> str:
    """Return the specs of an option for `_arguments`: `*--name=[about]:VALUE:action`."""
    about = "".join(f"\\{char}" if char in "[]:\\" else char for char in option.help)
    action = f":{option.value.replace(':', chr(92) + ':')}:" if option.value else ""
    if option.choices:
        action += f"({' '.join(option.choices)})"
    elif option.value in _FILE_VALUES:
        action += "_files"
    repeat = "*" if option.many else ""
    specs = []
    for name in FLAGS[option.name]:
        equals = "=" if option.value and name.startswith("--") else ""
        specs.append(_single_quoted(f"{repeat}{name}{equals}[{about}]{action}"))
    return " ".join(specs)


def _fish() -> str:
    lines = ["# fish completion for pgetpy: pgetpy completion fish | source"]
    levels = {"__fish_use_subcommand": TOP_COMMANDS}
    levels |= {f"'__fish_seen_subcommand_from {name}'": SUBCOMMANDS[name] for name in SUBCOMMANDS}
    lines += [
        f"complete -c pgetpy -n {where} -a {name} -d {_fish_quoted(about)}"
        for where, commands in levels.items()
        for name, about in commands.items()
    ]
    shells = " ".join(SHELLS)
    lines.append(f"complete -c pgetpy -n '__fish_seen_subcommand_from completion' -x -a '{shells}'")
    for option in _SHOWN:
        parts = [f"complete -c pgetpy -l {option.name}"]
        if option.short:
            parts.append(f"-s {option.short}")
        if option.choices:
            parts.append(f"-x -a '{' '.join(option.choices)}'")
        elif option.value:
            parts.append("-r" if option.value in _FILE_VALUES else "-x")
        parts.append(f"-d {_fish_quoted(option.help)}")
        lines.append(" ".join(parts))
    return "\n".join(lines) + "\n"


def _powershell() -> str:
    words = [*TOP_COMMANDS.items()]
    words += [row for below in SUBCOMMANDS.values() for row in below.items()]
    words += [(name, option.help) for option in _SHOWN for name in FLAGS[option.name]]
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
