"""The AWS post's own sequence, as its readers run it."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "post.py"


def test_the_sequence_of_the_aws_post_runs_from_create_to_clean_up(ebbtide):
    run = subprocess.run(
        [sys.executable, EXAMPLE, "--bucket", "post", "--model", "ebbtide/extractive", "--burst", "20"],
        env=ebbtide.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert run.returncode == 0, run.stderr
    assert "summary_text" in run.stdout
    assert "Notified: Completed" in run.stdout
    assert "20 summaries" in run.stdout
    assert "ApproximateBacklogSize: " in run.stdout
    assert run.stdout.endswith("Cleaned up\n")
    assert ebbtide.client("sagemaker").list_endpoints(NameContains="pegasus-summarization")["Endpoints"] == []
