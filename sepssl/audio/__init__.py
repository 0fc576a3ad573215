"""How sound is read and framed."""
