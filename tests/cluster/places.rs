use crate::lab::Lab;
pub fn files_outside_the_datadir_are_restored_where_they_are_told_to(_lab: &Lab) {}
pub fn a_half_restored_mount_point_does_not_start(_lab: &Lab) {}
