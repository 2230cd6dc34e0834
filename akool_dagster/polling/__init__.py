"""One bounded poll pass over the due ids, and when to poll next."""
