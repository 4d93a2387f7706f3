"""Running a sweep: the driver, and Ray Tune, which it schedules trials on. The only package that runs Ray."""
