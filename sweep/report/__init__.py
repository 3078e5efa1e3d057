"""From the store's records to the paper's tables, its claims, its figures and a page.

aggregate ──► *_tables, findings ──► claims ──► render, figures, page ──► write
"""

from sweep.report.write import ReportSummary, write_report

__all__ = ["ReportSummary", "write_report"]
