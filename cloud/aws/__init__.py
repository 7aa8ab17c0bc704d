"""Milpa on AWS: the ports of the domain over the EC2, Route53, ELB and DynamoDB APIs. The only place with boto3."""
