"""The kinds of model: for each architecture the metadata and tensors llama.cpp asks for.

The names and shapes follow src/models/<kind>.cpp and src/llama-arch.cpp of llama.cpp. The strength
of each matrix is chosen for what the model then says, not for resemblance to trained weights:

* Everything that enters a layer is normalised, so a matrix with deviation gain / sqrt(columns)
  gives outputs of size `gain`; the constants below are such gains.
* Scores of attention have a deviation of about 2: sharp enough that single far tokens matter, flat
  enough that rounding errors grow little from layer to layer.
* Each layer adds more than the embedding of the last token, so that the next token depends on the
  whole text. Feed-forward networks add more than attention: what attention gathers from a long text
  is nearly the same at each step, and where it prevails greedy text runs into loops.
* Logits have a deviation of about 6, so that the best two are rarely within 0.01 of each other.
"""
