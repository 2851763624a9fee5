"""Measurements that the documentation quotes, each written by one committed command."""
