"""The server: recordings and jobs over HTTP, and the page that uses them."""
