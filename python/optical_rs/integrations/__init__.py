"""Retrievers for other frameworks, over an index that ``optical-rs index`` wrote, and a student in mteb's benchmarks.

A module for each, none of which is imported before it is asked for: ``langchain``, ``llama_index``, ``mteb``.
"""
