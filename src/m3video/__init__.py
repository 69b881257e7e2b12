"""M³Video: self-supervised video learning by predicting the motion of what is hidden."""
