"""What lb-probe tells people about their load balancer: it reads and prints, it changes nothing."""
