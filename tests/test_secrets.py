"""No secret of the environment, of a parameter or of an address reaches what the kit writes or prints."""

import os
import re
import subprocess
import time
from pathlib import Path

import msgspec
import pyarrow.parquet
import pytest
from batch_project import KIT, environment, write_notebook

from kit import compare, report
from kit.record import formatting as fmt
from kit.record import redaction
from kit.record.redaction import masked
from kit.record.store import clean

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED0000000ID",
    "AWS_SECRET_ACCESS_KEY": "planted1/aws+secret/K7MDENGbPxRfiCY",
    "GITHUB_TOKEN": "planted2-github-token",
    "DB_PASSWORD": "planted3 horse staple",
    "HTTPS_PROXY": "http://someone:planted4-proxy@127.0.0.1:9",
    "DATABASE_URL": "postgresql://someone:planted5-database@db.invalid/x",
    "WANDB_API_KEY": "planted6aaaabbbbccccdddd",
    "USER": "planted7-user",
    "LOGNAME": "planted7-user",
    "HOSTNAME": "planted8-host",
}
ADDRESS = "s3://AKIAPLANTED1111111ID:planted9/with/slashes@bucket/rows.parquet?X-Amz-Signature=planted10"
"""A parameter: the kit does not know it from its environment."""
BASIC = "Basic c29tZW9uZTpwbGFudGVkMTE="

MEASURES = """
import os, subprocess, sys
from kit import Comparison, Measurement, Table

def first():
    return lambda: Measurement(seconds=0.001, answer=1)

def refused():
    raise RuntimeError(f"{address} refused {os.environ['DB_PASSWORD']} of {os.path.expanduser('~/data')}")

logins = Comparison("logins", title=f"Logging in at {address}", baseline="first", time_budget_s=0.2)
logins.variant("first", first)
logins.variant("refused", refused)
result = logins.run()
result.add(Table("seen", ["name", "value"], [[name, os.environ[name]] for name in names.split()]))
for name in names.split():
    print(name, os.environ[name])
    os.write(2, os.environ[name].encode() + b"\\n")
    subprocess.run([sys.executable, "-c", "import os, sys; print(os.environ[sys.argv[1]])", name], check=True)
"""
FAILS = """
import os
print({name: value for name, value in os.environ.items() if name not in ("USER", "LOGNAME", "HOSTNAME")})
headers = {"Authorization": basic}
raise ConnectionError(f"{os.environ['GITHUB_TOKEN']} at {os.environ['HTTPS_PROXY']} and {address}: {headers}")
"""


def text_of(path: Path) -> str:
    """Return what a file holds as text, packed tables too."""
    if path.suffix == ".parquet":
        return str(pyarrow.parquet.read_table(path).to_pylist())
    return path.read_bytes().decode("utf-8", "replace")


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> dict[str, str]:
    """All that a batch of a notebook that measures and one that fails, and their report, wrote and printed."""
    project = tmp_path_factory.mktemp("project")
    names = " ".join(name for name in PLANTED if name not in ("USER", "LOGNAME", "HOSTNAME"))
    parameters = f'address: str = ""\nnames: str = "{names}"\nbasic: str = "{BASIC}"'
    write_notebook(project / "notebooks" / "01_measures.ipynb", MEASURES, parameters=parameters, title="Measures")
    write_notebook(project / "notebooks" / "02_fails.ipynb", FAILS, parameters=parameters, title="Fails")
    home = project / "planted12-home"
    commands = (
        ["run", "01", "02", "-p", f"address={ADDRESS}"],
        ["run", "01", "-p", f"adress={ADDRESS}"],
        ["report"],
        ["report", ADDRESS],
        ["run", "01", "--runs", ADDRESS],
        ["compare", ADDRESS, "runs"],
    )
    ended = [
        subprocess.run([*KIT, *c], cwd=project, env=environment(home) | PLANTED, capture_output=True, text=True)
        for c in commands
    ]
    assert [end.returncode for end in ended][:3] == [1, 2, 0], [end.stderr for end in ended]
    said = {f"what {' '.join(c[:2])} said": end.stdout + end.stderr for c, end in zip(commands, ended, strict=True)}
    files = [path for path in project.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    written = {str(path.relative_to(project)): text_of(path) for path in files}
    sources = {name: text for name, text in written.items() if name.startswith("notebooks/")}
    return said | {name: text for name, text in written.items() if name not in sources}


def test_no_planted_secret_is_left(left):
    """Passwords, keys and tokens of the environment, of a parameter and of a proxy, the user's and the host's name and
    the home folder stand in no record, status, log, executed notebook or page, nor in what the commands said."""
    kinds = {Path(name).name for name in left}
    assert {"log.txt", "status.json", "notebook.ipynb", "index.html", "report.md", "results.parquet"} <= kinds
    assert any("/records/" in name for name in left) and any("report/notebooks/" in name for name in left)
    secret = re.compile(f"planted[0-9]|AKIA|{BASIC.split()[1]}")
    found = [
        (name, text[max(0, m.start() - 60) : m.end() + 20])
        for name, text in left.items()
        for m in secret.finditer(text)
    ]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("s3://AKIA:wJa/K7M/bPx@bucket/x", "s3://***@bucket/x"),
        ("redis://:hunter2@host:6379/0", "redis://***@host:6379/0"),
        ("http://u:p@ss@host/x", "http://***@host/x"),
        ("https://x/y?a=1&sig=abc&b=2#access_token=z", "https://x/y?a=1&sig=***&b=2#access_token=***"),
        ("https://x/y?X-Goog-Credential=a%2Fb&v=1", "https://x/y?X-Goog-Credential=***&v=1"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("-H 'X-Api-Key: 0abc'", "-H 'X-Api-Key: ***'"),
        ("proxy-authorization=Basic dXNlcjpwYXNz", "proxy-authorization=Basic ***"),
        ("curl -u Basic dXNlcjpwYXNz1w==", "curl -u ***"),
        ('storage_options={"key": "a", "secret": "0123456789"}', 'storage_options={"key": "a", "secret": "***"}'),
        ("AWS_SECRET_ACCESS_KEY=wJalrX more", "AWS_SECRET_ACCESS_KEY=*** more"),
        ("host=db password=hunter2 dbname=x", "host=db password=*** dbname=x"),
        ("AccountName=a;AccountKey=abc==;x", "AccountName=a;AccountKey=***;x"),
        ("the key AKIAIOSFODNN7EXAMPLE is", "the key *** is"),
        (f"ghp_{'a' * 36}, hf_{'b' * 34}", "***, ***"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----***",
        ),
    ],
)
def test_secrets_are_known_by_place_and_look(text, expected):
    """Users in addresses, signed queries, headers, assignments, keys of known make and private keys are masked."""
    assert masked(text) == expected and clean({"x": [text]}) == {"x": [expected]} and clean({text: 1}) == {expected: 1}
    assert fmt.shown(text) == " ".join(expected.split())


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8080/@x",
        "https://medium.com/@name/x?tok=1&page=2",
        "file:///data/x:y@z",
        "next_token = logits.argmax(-1)",
        'mask_token = "[MASK]"; eos_token="<|endoftext|>"',
        "max_tokens=512, tokens_per_s: 3",
        "connect(password=os.environ['X'])",
        "def open(password: str = '', secret=None):",
        "key=carrier, on='key', sort_keys=True",
        "torch.device('cuda:0'), a@b.example, 10:20:30Z",
        "basic characterization; the bearer of news",
        "https://host/path/file@2x.png, a@b, see http://x",
    ],
)
def test_code_and_prose_stay_what_they_are(text):
    """What only looks a little like a secret is left as it is: code of variants must stay readable."""
    assert masked(text) == text


def test_the_environment_names_its_secrets():
    """Values of variables whose names say so, and passwords in addresses, are secrets; switches and paths are none."""
    environment = PLANTED | {
        "TOKENIZERS_PARALLELISM": "false",
        "PWD": "/work",
        "MAX_TOKENS": "4096000",
        "SSH_AUTH_SOCK": "/tmp/agent.1",
        "SECRET_KEY": "short",
        "GOOGLE_APPLICATION_CREDENTIALS": os.getcwd(),
    }
    known = redaction.known(environment)
    secrets = ("AKIAPLANTED0000000ID", PLANTED["AWS_SECRET_ACCESS_KEY"], "planted2-github-token", "planted4-proxy")
    assert set(secrets) < set(known) and "planted1%2Faws%2Bsecret%2FK7MDENGbPxRfiCY" in known
    assert not {"false", "/work", "4096000", "/tmp/agent.1", "short", os.getcwd(), "planted7-user"} & set(known)


def test_a_text_under_a_secrets_name_is_masked():
    """A parameter named as a secret is masked whatever its text; a number under such a name is a count."""
    given = {"password": "x", "api_key": "", "hf_token": "y", "max_tokens": 3, "tokens": "z"}
    given |= {"options": {"secret": "s"}}
    assert clean(given) == given | {"password": "***", "hf_token": "***", "options": {"secret": "***"}}


@pytest.mark.parametrize(
    "part", ["a://b:", "://", "a: ", "bearer ", "http://a@", "password=", "token='", "-----BEGIN A"]
)
def test_hostile_text_is_masked_in_linear_time(part):
    """Eight times the text takes about eight times the time, whatever it repeats."""

    def seconds(many: int) -> float:
        text = part * many
        began = time.process_time()
        masked(text)
        return time.process_time() - began

    assert min(seconds(12_000) for _ in range(3)) < 24 * min(seconds(1_500) for _ in range(5)) + 0.01


def test_secrets_in_a_record_of_others_are_not_told(tmp_path):
    """A record that was written without care, with an address and its key in every text, is told without the key on
    the page, in the Markdown, in the table and in the Markdown that compares."""
    from test_security import spoilt, whole_record

    for name in ("before", "after"):
        record = spoilt(whole_record(0, [10, 20]), "s3://someone:planted13@b/")
        record = msgspec.structs.replace(record, id=name, written=f"2026-11-2{len(name)}T10:20:30Z")
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(record))
    runs = [str(tmp_path / "before.json"), str(tmp_path / "after.json")]
    report.write(runs, str(tmp_path / "report"))
    compare.main(*runs, str(tmp_path), str(tmp_path / "compared"), False)
    told = {path: text_of(path) for folder in ("report", "compared") for path in (tmp_path / folder).rglob("*.*")}
    assert len(told) == 4 and all("s3" in text for text in told.values())
    assert [path for path, text in told.items() if "planted13" in text] == []
