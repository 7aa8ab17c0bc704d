"""The AWS cloud: adapters of the ports over boto3, which is imported nowhere else and only when first needed."""
