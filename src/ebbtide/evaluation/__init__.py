"""How good summaries are: ROUGE of any summariser on any set of articles with references."""
