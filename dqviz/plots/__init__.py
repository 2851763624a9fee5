"""Figures as plain dictionaries in Plotly's schema; plotly.js draws them in the browser."""
