"""Runs one model: a process that may die without taking anyone along."""
