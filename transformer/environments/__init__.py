"""Small worlds to act in, as pure functions of JAX: `environment.Environment` is the
one type of them. A leaf: it imports no other room."""
