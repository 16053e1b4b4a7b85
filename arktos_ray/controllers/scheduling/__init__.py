"""The scheduler of one TenantPartition, and the reservations of one ResourcePartition."""
