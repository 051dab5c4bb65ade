"""One module per kind of load balancer: publish an assignment, read it back."""
