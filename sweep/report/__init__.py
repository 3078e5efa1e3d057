"""From the store's records to the paper's tables, its claims and its figure.

aggregate ──► *_tables, findings ──► claims ──► render, figures ──► write
"""

from sweep.report.write import ReportSummary, write_report

__all__ = ["ReportSummary", "write_report"]
