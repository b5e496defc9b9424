"""Scoring generated volumes: arrays in, numbers and pictures out."""
