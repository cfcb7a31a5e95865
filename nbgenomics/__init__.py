"""Deep learning in regulatory genomics, from notebooks.

A thin library behind a series of parameterised notebooks. Regions are a DataFrame and everything else is an array aligned with it row by row;
models are plain functional ``keras.Model`` objects with named inputs; results are tidy DataFrames, charts and genome tracks. Start with
``notebooks/01_data_preparation.ipynb``, or ``python -m nbgenomics --help`` on the command line.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # fewer of TensorFlow's messages at start; errors stay

__version__ = "0.1.0"
