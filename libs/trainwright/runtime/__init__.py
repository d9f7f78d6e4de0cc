"""What every service runs on: the protocol over Kafka, the service's life cycle, clock, health, HTTP edge."""
