"""Models with data to be judged by: built in, trained here, and own ones."""
