"""Where references sit in each request format; pure functions on the raw body and its parsed form."""
