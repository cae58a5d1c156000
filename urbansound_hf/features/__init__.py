"""Model inputs: the feature extractor for one clip, and as a cached `map` step over a data set."""
