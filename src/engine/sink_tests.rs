//! INSERT into folders on disks that fail.
