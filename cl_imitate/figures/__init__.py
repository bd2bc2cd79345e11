"""The figures of a report, as PNG; the only folder that imports matplotlib."""
