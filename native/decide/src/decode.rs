//! Wire messages into workloads and services.
