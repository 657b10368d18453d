"""What the field publishes, read into this product's forms; what this product made, in the field's layouts.

`distilled` reads sets of images, `folders` those that are pictures, `pt_files` those of the DC and MTT
families; `exports` writes.
"""
