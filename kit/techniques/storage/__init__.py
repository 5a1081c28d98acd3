"""Storage: layouts, codecs and clients of tables on disk and at S3, over links of known bandwidth, and their cost."""
