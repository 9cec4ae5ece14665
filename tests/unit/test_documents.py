"""Which lines of a document are commands, and what running them tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import Mention, commands, execute, mentions

DOCUMENT = """# Title
    indented: not run
```yaml
kind: NotACommand
```
## First
```bash
# a comment, no heading
echo one
```
Words.
```bash
echo two
```
## Second
```bash
echo three
```
"""


def test_commands_are_those_of_bash_blocks_by_heading() -> None:
    assert commands(DOCUMENT) == {"First": "# a comment, no heading\necho one\necho two\n", "Second": "echo three\n"}


def test_what_is_mentioned_stands_in_blocks_and_in_sentences() -> None:
    document = """# Title
Type `make one`, or `A=1 B_C=2 make
two`; `make` alone and `make_it` are none, nor is `kind: ConfigMap`.

    make three WORD=1       # with a reason
    kubectl get \\
      pods
    spec: {}
```
$ kubectl get lft
kubectl printed
```
```bash
make never
```
"""
    whole = [mention.command for mention in mentions(document) if mention.complete]
    assert whole == ["make three WORD=1", "kubectl get pods", "kubectl get lft"]
    named = [mention for mention in mentions(document) if not mention.complete]
    assert named == [Mention(command="make one", complete=False), Mention(command="make two", complete=False)]


def test_commands_run_in_the_folder_with_the_environment(tmp_path: Path) -> None:
    printed = execute('echo "$WHO" > file; pwd', folder=tmp_path, environment={"WHO": "me"})
    assert (tmp_path / "file").read_text() == "me\n"
    assert str(tmp_path) in printed


@pytest.mark.parametrize("script", ["false\necho never", "false | true\necho never", 'echo "$UNSET"\necho never'])
def test_the_first_command_that_fails_is_an_error(script: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 1") as failure:
        execute(script, folder=tmp_path, environment={})
    assert "never" not in str(failure.value).splitlines()
