"""The dashboard knows a run by its files alone; here they are those that `ard` writes."""

import json

from ard.measuring.journal import FileJournal
from ard.report.values import to_json
from nas_gan.runs.compressions import read_compression


def test_the_page_reads_from_a_report_what_the_report_says(report, tmp_path):
    (tmp_path / "report.json").write_text(to_json(report))
    (tmp_path / "config.json").write_text(json.dumps({"fid_budget": report.budget_text}))
    FileJournal(tmp_path / "journal.jsonl", {"checkpoint": "a"})
    found = read_compression(tmp_path)
    assert (found.status, found.problems) == ("finished", ())
    assert (found.asked, found.checkpoint) == (report.budget_text, report.checkpoint)
    [result] = found.results
    assert (result.params_ratio, result.macs_ratio) == (report.compression, report.macs_ratio)
    score = report.recovered
    assert result.rise == (score.rise, score.ci_low, score.ci_high)
    assert dict(result.layers) == {name: str(choice) for name, choice in report.plan.items()}
    assert [plan.good for plan in found.plans[1:]] == [t.within_budget for t in report.trials]
    assert found.space is not None
    assert found.space.label == report.distance
