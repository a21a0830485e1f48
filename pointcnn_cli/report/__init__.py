"""The page of a run: what is gathered and measured, how it is drawn, and how it is put together, apart."""
