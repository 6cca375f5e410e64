"""How fast is the library, against ordinary code and against the machine?"""
