"""Measurements of models and classic codecs: tables, plots, curves, the report."""
