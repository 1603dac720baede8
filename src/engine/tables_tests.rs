//! CREATE TABLE on disks that fail.
