"""The reverse proxy: web and resolve, and everything else passed through."""
