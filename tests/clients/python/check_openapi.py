"""schemathesis against `POST /query`: requests made from the OpenAPI document that the proxy serves, right ones and wrong ones.

Every answer must be one that the document describes. That a request of the right form is accepted is not checked: its SQL is random letters.
"""

import asyncio
import os
import pathlib
import subprocess
import sys
import tempfile

from report import Report

# Headers and query parameters that the document does not name are nobody's mistake.
SETTINGS = "[generation]\nallow-extra-parameters = false\n"


def check():
    with tempfile.TemporaryDirectory() as folder:
        (settings := pathlib.Path(folder) / "schemathesis.toml").write_text(SETTINGS)
        program = [str(pathlib.Path(sys.executable).parent / "schemathesis"), "--config-file", str(settings), "run", f"{os.environ['API_URL']}/openapi.json"]
        program += ["--auth", "app:secret", "--checks", "all", "--exclude-checks", "positive_data_acceptance"]
        program += ["--max-examples", "300", "--generation-deterministic", "--no-color"]
        if authority := os.environ.get("REQUESTS_CA_BUNDLE"):
            program += ["--tls-verify", authority]
        done = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=80, check=False)
    if done.returncode:
        raise AssertionError(done.stdout[-4000:] + done.stderr[-1000:])
    print(next(line.strip() for line in reversed(done.stdout.splitlines()) if "generated" in line), flush=True)


async def main():
    report = Report()
    await report.check("openapi", lambda: asyncio.to_thread(check))
    report.end()


asyncio.run(main())
